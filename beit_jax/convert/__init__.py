"""Reads and writes checkpoints of Hugging Face, the official code, timm, and OpenAI's dVAE."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beit_jax.convert.preprocessing import preprocess
    from beit_jax.convert.pretrained import Pretrained, from_pretrained
    from beit_jax.convert.pushing import push_to_hub
    from beit_jax.convert.saving import save_pretrained

_MODULES = {"preprocess": "preprocessing", "push_to_hub": "pushing", "save_pretrained": "saving"}
_MODULES |= dict.fromkeys(("from_pretrained", "Pretrained"), "pretrained")

__all__ = ["Pretrained", "from_pretrained", "preprocess", "push_to_hub", "save_pretrained"]


def __getattr__(name: str) -> Any:
    """Loads the public functions, and JAX, when they are first asked for: the command checks its arguments before."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"beit_jax.convert.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'beit_jax.convert' has no attribute {name!r}")
