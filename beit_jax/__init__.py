"""BEiT in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names that type checkers and the reference read; they are loaded below, when they are used
    from beit_jax.convert import from_pretrained, preprocess, push_to_hub, save_pretrained
    from beit_jax.encoder_features import encoder_of, feature_extractor, features

__version__ = "0.1.0"

_MODULES = dict.fromkeys(("from_pretrained", "preprocess", "push_to_hub", "save_pretrained"), "convert")
_MODULES |= dict.fromkeys(("encoder_of", "feature_extractor", "features"), "encoder_features")

__all__ = [
    "encoder_of",
    "feature_extractor",
    "features",
    "from_pretrained",
    "preprocess",
    "push_to_hub",
    "save_pretrained",
]


def __getattr__(name: str) -> Any:
    """Loads the public functions when they are first asked for: `import beit_jax` stays quick."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"beit_jax.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'beit_jax' has no attribute {name!r}")
