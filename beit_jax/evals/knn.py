"""Weighted k-nearest-neighbour classification by frozen features (arXiv 1805.01978, section 3.4).

Nothing is learned: each of the k training images most similar to a query votes for its class with the weight
exp(cosine / temperature). Every layer of the encoder is evaluated, and the best named.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from beit_jax.evals.features import Extractor
from beit_jax.tasks import layers
from beit_jax.tasks.task import Task
from beit_jax.training.sharding import batch_sharding, replicated
from beit_jax.typing import HostBatch, Params

QUERIES = 256  # at once


class LabelledSet(NamedTuple):
    """Batches of `image`, `label` and `valid`, which can be iterated again and again, and the number of images."""

    batches: Iterable[HostBatch]
    images: int


class Knn:
    """The evaluator of one run.

    Args:
      task: with `embed`.
      train: images that vote.
      test: images that are classified.
      num_classes: number of classes.
      k: neighbours; all images that vote where they are fewer.
      temperature: of the weights.
    """

    def __init__(self, task: Task, train: LabelledSet, test: LabelledSet, num_classes: int, k: int, temperature: float):
        self._task, self._sets, self._num_classes = task, (train, test), num_classes
        self._k, self._temperature = k, temperature
        self._extractor = functools.cache(lambda mesh: Extractor(task, mesh))
        self._vote = functools.cache(self._compiled)
        self._found: dict[str, float] = {}

    def __call__(
        self,
        mesh: Mesh,
        params: Params,
        frozen: Params,
        watched: Callable[[Iterable[HostBatch]], Iterable[HostBatch]] = lambda batches: batches,
    ) -> dict[str, float]:
        """`knn_top1` of the best layer, `knn_best_layer`, and `knn_top1_layerNN` of each; layers count from 1.

        Args:
          mesh: of the devices.
          params: of the task.
          frozen: of the task.
          watched: what batches are looked at through, such as a watch for signals to stop.
        """
        if self._found and "encoder" in self._task.frozen_parts:
            return self._found  # an encoder that does not learn: nothing has changed
        extract = self._extractor(mesh)
        (bank, classes), (queries, truth) = (
            extract(params, frozen, watched(labelled.batches), labelled.images) for labelled in self._sets
        )
        top1 = np.zeros(bank.shape[1])
        for layer in range(bank.shape[1]):
            votes = self._classify(mesh, bank[:, layer], classes, queries[:, layer])
            top1[layer] = np.mean(votes == truth)
        self._found = layers.best({"top1": top1}, self._task.embedded_layers, prefix="knn_")
        return self._found

    def _classify(self, mesh: Mesh, bank: np.ndarray, classes: np.ndarray, queries: np.ndarray) -> np.ndarray:
        bank, classes = jax.device_put((bank, classes), replicated(mesh))
        rows = -(-QUERIES // mesh.size) * mesh.size
        found = []
        for start in range(0, len(queries), rows):
            part = queries[start : start + rows]
            padded = np.pad(part, ((0, rows - len(part)), (0, 0)))
            guesses = self._vote(mesh)(bank, classes, jax.device_put(padded, batch_sharding(mesh)))
            found.append(np.asarray(guesses)[: len(part)])
        return np.concatenate(found)

    def _compiled(self, mesh: Mesh) -> Callable[..., jax.Array]:
        settings = dict(num_classes=self._num_classes, k=self._k, temperature=self._temperature)
        return jax.jit(functools.partial(vote, **settings), out_shardings=replicated(mesh))


def vote(
    bank: jax.Array, classes: jax.Array, queries: jax.Array, *, num_classes: int, k: int, temperature: float
) -> jax.Array:
    """The class with most weight among the nearest.

    Args:
      bank: float32 `[n, f]`.
      classes: int32 `[n]`, theirs.
      queries: float32 `[m, f]`.
      num_classes: number of classes.
      k: neighbours; n where it is larger.
      temperature: of the weights.

    Returns:
      int32 `[m]`.
    """
    # In float32 proper: accelerators would round the factors, and with them who is near.
    similarity = jnp.matmul(_unit(queries), _unit(bank).T, precision=jax.lax.Precision.HIGHEST)
    similarity, nearest = jax.lax.top_k(similarity, min(k, bank.shape[0]))
    # The same factor for all neighbours of a query changes no vote, and keeps small temperatures finite.
    weights = jnp.exp((similarity - similarity[:, :1]) / temperature)
    rows = jnp.arange(queries.shape[0])[:, None]
    votes = jnp.zeros((queries.shape[0], num_classes), jnp.float32).at[rows, classes[nearest]].add(weights)
    return jnp.argmax(votes, axis=1).astype(jnp.int32)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
