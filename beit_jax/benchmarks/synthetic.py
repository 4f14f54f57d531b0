"""Synthetic training batches, and the pre-training task with tokens that are given."""

import ast
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from beit_jax.config import fill_in_sizes
from beit_jax.config.pretrain import num_masked
from beit_jax.data.block_mask_numpy import block_mask, fill_mask
from beit_jax.errors import UserError
from beit_jax.tasks.pretrain import Pretrain
from beit_jax.tasks.task import FrozenPart, Task
from beit_jax.typing import HostBatch

_BLOCKWISE = re.compile(r"\bblockwise_mask(\([^|]*\))?")


def synthetic_batch(config: ConfigDict, task: Task) -> HostBatch:
    """A batch of the task's shapes: pixels in [0.1, 0.9], labels and tokens that exist, masks as in `data.ops`.

    Raises:
      UserError: the task does not say which integers it takes.
    """
    rng = np.random.default_rng(config.seed)

    def values(name: str, spec: jax.ShapeDtypeStruct) -> np.ndarray:
        if name == "mask":
            return synthetic_masks(config, rng, spec.shape)
        if spec.dtype == jnp.bool_:
            return rng.random(spec.shape) < 0.5
        if spec.dtype == jnp.uint8:
            return rng.integers(26, 230, spec.shape, np.uint8)
        if jnp.issubdtype(spec.dtype, jnp.floating):
            return rng.uniform(0.1, 0.9, spec.shape).astype(spec.dtype)
        if name not in task.integer_bounds:
            raise UserError(
                f"the task {config.task!r} does not say which values {name!r} has; expected their bound in its "
                "integer_bounds"
            )
        return rng.integers(0, task.integer_bounds[name], spec.shape, spec.dtype)

    return {name: values(name, spec) for name, spec in task.train_spec(config.batch_size).items()}


def synthetic_masks(config: ConfigDict, rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """bool `[b, g, g]` by the rule of `blockwise_mask` where the ops have it, else `num_masked` random patches."""
    batch, *grid = shape
    if match := _BLOCKWISE.search(fill_in_sizes(config).data.ops):
        most, min_block, exact = _blockwise_settings(match[1] or "()")
        masks = [block_mask(rng.random, tuple(grid), most, min_block) for _ in range(batch)]
        draw = functools.partial(rng.choice, replace=False)
        return np.stack([fill_mask(mask, most, draw) if exact else mask for mask in masks])
    ranks = rng.random((batch, grid[0] * grid[1])).argsort(axis=1)
    return (ranks < num_masked(config)).reshape(shape)


def _blockwise_settings(arguments: str) -> tuple[int, int, bool]:
    """The arguments `num_masked`, `min_block` and `exact` of the op, which has these defaults."""
    call = ast.parse(f"op{arguments}", mode="eval").body
    given = dict(zip(("num_masked", "min_block", "grid", "exact"), map(ast.literal_eval, call.args)))
    given |= {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return given.get("num_masked", 75), given.get("min_block", 16), given.get("exact", False)


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainOnGivenTokens(Pretrain):
    """The pre-training whose batches hold `tokens`, without its tokenizer, which only evaluations need."""

    @property
    def frozen_parts(self) -> dict[str, FrozenPart]:
        """None."""
        return {}

    @property
    def integer_bounds(self) -> dict[str, int]:
        """See `Task.integer_bounds`."""
        return {"tokens": self.tokenizer.vocab}


def pretrain_on_given_tokens(config: ConfigDict) -> PretrainOnGivenTokens:
    """The task of a pre-training's config, with tokens that are given."""
    return PretrainOnGivenTokens(ConfigDict({**config, "tokens": "given"}))
