"""Tasks: one file for each thing to learn."""

from ml_collections import ConfigDict

from beit_jax.tasks import classify, pretrain, tokenizer
from beit_jax.tasks.task import FrozenPart, Task

__all__ = ["FrozenPart", "Task", "create"]

_CREATE = {"tokenizer": tokenizer.create, "pretrain": pretrain.create, "classify": classify.create}


def create(config: ConfigDict) -> Task:
    """The task of a validated config."""
    return _CREATE[config.task](config)
