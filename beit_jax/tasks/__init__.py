"""Tasks: one file for each thing to learn."""

import flax.linen as nn
from ml_collections import ConfigDict

from beit_jax.tasks import classify, pretrain, probe, segment, tokenizer
from beit_jax.tasks.task import FrozenPart, Task

__all__ = ["FrozenPart", "Task", "create", "model"]

_CREATE = {
    "tokenizer": tokenizer.create,
    "pretrain": pretrain.create,
    "classify": classify.create,
    "probe": probe.create,
    "segment": segment.create,
}


def model(config: ConfigDict) -> nn.Module:
    """The network of a config's task."""
    if config.task == "tokenizer":
        return tokenizer.model(config.model)
    return {"pretrain": pretrain, "classify": classify, "probe": probe, "segment": segment}[config.task].model(config)


def create(config: ConfigDict) -> Task:
    """The task of a validated config."""
    return _CREATE[config.task](config)
