"""BEiT in JAX."""

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = ["from_pretrained", "preprocess", "save_pretrained"]


def __getattr__(name: str) -> Any:
    """Loads the public functions when they are first asked for: `import beit_jax` stays quick."""
    if name in __all__:
        return getattr(importlib.import_module("beit_jax.convert"), name)
    raise AttributeError(f"module 'beit_jax' has no attribute {name!r}")
