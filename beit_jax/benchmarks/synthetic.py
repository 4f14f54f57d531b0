"""Training batches without data, and the pre-training task with tokens that are given."""

import ast
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from beit_jax.data.block_mask_numpy import block_mask
from beit_jax.tasks import pretrain
from beit_jax.tasks.task import HostBatch, Task

_BLOCKWISE = re.compile(r"\bblockwise_mask(\([^|]*\))?")


def rows(config: ConfigDict, task: Task) -> HostBatch:
    """A batch of the task's shapes: pixels in [0.1, 0.9], labels and tokens that exist, masks as in `data.ops`."""
    rng = np.random.default_rng(config.seed)
    tokens = config.tokenizer.vocab if config.task == "pretrain" else 0
    highest = tokens or config.model.get("num_classes", 0)

    def values(spec: jax.ShapeDtypeStruct) -> np.ndarray:
        if spec.dtype == jnp.bool_:
            return masks(config, rng, spec.shape)
        if spec.dtype == jnp.int32:
            return rng.integers(0, highest, spec.shape, np.int32)
        if spec.dtype == jnp.uint8:
            return rng.integers(26, 230, spec.shape, np.uint8)
        return rng.uniform(0.1, 0.9, spec.shape).astype(np.float32)

    return {name: values(spec) for name, spec in task.batch_spec(config.batch_size).items()}


def masks(config: ConfigDict, rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """bool `[b, g, g]` by the rule of `blockwise_mask` where the ops have it, else `num_masked` random patches."""
    batch, *grid = shape
    if match := _BLOCKWISE.search(config.data.ops):
        num_masked, min_block = _blockwise_settings(match[1] or "()")
        return np.stack([block_mask(rng.random, tuple(grid), num_masked, min_block) for _ in range(batch)])
    ranks = rng.random((batch, grid[0] * grid[1])).argsort(axis=1)
    return (ranks < config.num_masked).reshape(shape)


def _blockwise_settings(arguments: str) -> tuple[int, int]:
    """The first two arguments of the op, which has these defaults."""
    call = ast.parse(f"op{arguments}", mode="eval").body
    given = dict(zip(("num_masked", "min_block"), map(ast.literal_eval, call.args)))
    given |= {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return given.get("num_masked", 75), given.get("min_block", 16)


def with_tokens(config: ConfigDict) -> Task:
    """The pre-training task whose batches hold `tokens`, and without its tokenizer, which only evaluations need."""
    return dataclasses.replace(pretrain.create(ConfigDict({**config, "tokens": "given"})), frozen={})
