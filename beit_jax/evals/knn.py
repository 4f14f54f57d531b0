"""Weighted k-nearest-neighbour classification by frozen features (arXiv 1805.01978, section 3.4).

Nothing is learned. Each of the k training images that are most similar to a query votes for its class with the weight
exp(cosine / temperature). Every layer of the encoder is evaluated.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from beit_jax.evals.features import Extractor
from beit_jax.tasks.layers import best_layer_metrics
from beit_jax.tasks.task import Task
from beit_jax.training.sharding import batch_sharding, replicated
from beit_jax.typing import HostBatch, Params

TEMPERATURE = 0.07  # as in the paper
QUERIES = 256  # classified at a time

METRICS = {
    "knn_top1": "top-1 accuracy of the nearest neighbours' vote, by the features of the best layer",
    "knn_best_layer": "that layer, counted from 1",
}


class LabelledSet(NamedTuple):
    """Batches of `image`, `label`, `valid` and `index`, which can be iterated repeatedly, and the number of images."""

    batches: Iterable[HostBatch]
    images: int


class Knn:
    """The evaluation of one run by its nearest neighbours.

    Args:
      task: with `embed`.
      train: images that vote.
      test: images that are classified.
      num_classes: number of classes.
      k: neighbours; all images that vote where they are fewer.
    """

    def __init__(self, task: Task, train: LabelledSet, test: LabelledSet, num_classes: int, k: int):
        self._task, self._sets, self._num_classes, self._k = task, (train, test), num_classes, k
        self._extractor = functools.cache(lambda mesh: Extractor(task, mesh))
        self._vote = functools.cache(self._compile_vote)
        self._metrics: dict[str, float] = {}

    def __call__(
        self,
        mesh: Mesh,
        params: Params,
        frozen: Params,
        wrap: Callable[[Iterable[HostBatch]], Iterable[HostBatch]] = lambda batches: batches,
    ) -> dict[str, float]:
        """`knn_top1` of the best layer, `knn_best_layer`, and `knn_top1_layerNN` of each; layers count from 1.

        Args:
          mesh: of the devices.
          params: of the task.
          frozen: of the task.
          wrap: what the batches are passed through, such as a check for preemption.
        """
        if self._metrics and "encoder" in self._task.frozen_parts:
            return self._metrics  # the encoder does not learn
        extract = self._extractor(mesh)
        (bank, classes), (queries, truth) = (
            extract(params, frozen, wrap(labelled.batches), labelled.images) for labelled in self._sets
        )
        top1 = [
            np.mean(self._classify(mesh, bank[:, layer], classes, queries[:, layer]) == truth)
            for layer in range(bank.shape[1])
        ]
        self._metrics = best_layer_metrics({"top1": np.array(top1)}, self._task.embedded_layers, prefix="knn_")
        return self._metrics

    def _classify(self, mesh: Mesh, bank: np.ndarray, classes: np.ndarray, queries: np.ndarray) -> np.ndarray:
        bank, classes = jax.device_put((bank, classes), replicated(mesh))
        size = -(-QUERIES // mesh.size) * mesh.size
        votes = []
        for start in range(0, len(queries), size):
            part = queries[start : start + size]
            padded = jax.device_put(np.pad(part, ((0, size - len(part)), (0, 0))), batch_sharding(mesh))
            votes.append(np.asarray(self._vote(mesh)(bank, classes, padded))[: len(part)])
        return np.concatenate(votes)

    def _compile_vote(self, mesh: Mesh) -> Callable[..., jax.Array]:
        return jax.jit(
            functools.partial(vote, num_classes=self._num_classes, k=self._k), out_shardings=replicated(mesh)
        )


def vote(bank: jax.Array, classes: jax.Array, queries: jax.Array, *, num_classes: int, k: int) -> jax.Array:
    """The classes with the largest sum of weights among the nearest, int32 `[m]`.

    Args:
      bank: features of the images that vote, float32 `[n, f]`.
      classes: their classes, int32 `[n]`.
      queries: features of the images that are classified, float32 `[m, f]`.
      num_classes: number of classes.
      k: neighbours; n where it is larger.
    """
    # Accelerators would round the factors of the product, and with them who is near.
    similarity = jnp.matmul(_unit(queries), _unit(bank).T, precision=jax.lax.Precision.HIGHEST)
    similarity, nearest = jax.lax.top_k(similarity, min(k, bank.shape[0]))
    # A common factor of all weights of a query changes no vote.
    weights = jnp.exp((similarity - similarity[:, :1]) / TEMPERATURE)
    rows = jnp.arange(queries.shape[0])[:, None]
    votes = jnp.zeros((queries.shape[0], num_classes), jnp.float32).at[rows, classes[nearest]].add(weights)
    return jnp.argmax(votes, axis=1).astype(jnp.int32)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
