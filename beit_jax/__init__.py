"""BEiT in JAX."""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = dict.fromkeys(("from_pretrained", "preprocess", "push_to_hub", "save_pretrained"), "convert")
_MODULES |= dict.fromkeys(("encoder_of", "feature_extractor", "features"), "encoder_features")

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    """Loads the public functions when they are first asked for: `import beit_jax` stays quick."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"beit_jax.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'beit_jax' has no attribute {name!r}")
