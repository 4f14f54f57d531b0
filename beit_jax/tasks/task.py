"""What the training loop knows of a task: pure functions over a tree of parameters."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

Params = Mapping[str, Any]
Batch = Mapping[str, jax.Array]
HostBatch = Mapping[str, np.ndarray]  # one process's rows of a batch, on the host
# (sum, count) pairs: they add up over micro-batches, devices and evaluation batches, and are divided once at the end.
Metrics = dict[str, tuple[jax.Array, jax.Array]]
# Beside them a loss may give running statistics under this name: a tree of new values for parameters that have no
# gradient. The step takes the mean over micro-batches.
STATISTICS = "statistics"


@dataclasses.dataclass(frozen=True)
class FrozenPart:
    """Parameters that a task reads and does not learn, such as the tokenizer of the pre-training.

    Attributes:
      init: makes parameters from a PRNG key; its shapes are those expected of the checkpoint.
      source: the run or checkpoint to read them from; "random" keeps what `init` made.
      seed: of the key for "random".
      drop: regular expressions of names in the checkpoint that are not part of it.
    """

    init: Callable[[jax.Array], Params]
    source: str
    seed: int = 0
    drop: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing to learn.

    Attributes:
      name: the task's name in configs.
      batch_spec: from a batch size to the shapes and dtypes of a training batch (without `valid`).
      init: from a PRNG key to parameters.
      embed: `(params, frozen, images [b, h, w, 3]) -> [b, l, f]`, what l layers of the encoder make of images.
      embedded: the numbers of these layers, counted from 1.
      frozen: parts passed to every function as `frozen[name]`.
      loss: `(params, frozen, batch, key, step) -> metrics`; the step minimises `metrics["loss"]`, sum over count.
      measure: `(params, frozen, batch) -> sums`, added over the evaluation batches; rows not `valid` count nothing.
      summarize: from the added sums, on the host, to named numbers.
      eval_spec: as `batch_spec`, of evaluation batches where they differ.
      check: raises a `UserError` where the values of a first batch cannot be learned from.
      pictures: `(params, frozen, batch) -> {name: [b, h, w, 3] in [0, 1]}`, things to look at, aligned by row.
    """

    name: str
    batch_spec: Callable[[int], dict[str, jax.ShapeDtypeStruct]]
    init: Callable[[jax.Array], Params]
    loss: Callable[[Params, Params, Batch, jax.Array, jax.Array], Metrics]
    measure: Callable[[Params, Params, Batch], dict[str, Any]]
    summarize: Callable[[dict[str, Any]], dict[str, float]]
    check: Callable[[HostBatch], None] = lambda rows: None
    pictures: Callable[[Params, Params, Batch], dict[str, jax.Array]] | None = None
    eval_spec: Callable[[int], dict[str, jax.ShapeDtypeStruct]] | None = None
    embed: Callable[[Params, Params, jax.Array], jax.Array] | None = None
    embedded: tuple[int, ...] = ()
    frozen: Mapping[str, FrozenPart] = dataclasses.field(default_factory=dict)


def means(sums: dict[str, Any]) -> dict[str, float]:
    """Sum over count of every pair."""
    return {name: float(total) / float(count) for name, (total, count) in sums.items()}
