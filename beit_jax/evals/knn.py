"""Weighted k-nearest-neighbour classification by frozen features (arXiv 1805.01978, section 3.4).

Nothing is learned. Each of the k training images that are most similar to a query votes for its class with the weight
exp(cosine / temperature). Every layer of the encoder is evaluated.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from beit_jax.evals.features import Features, put_everywhere, put_rows
from beit_jax.tasks.layers import best_layer_metrics
from beit_jax.training.sharding import replicated

TEMPERATURE = 0.07  # as in the paper
QUERIES = 256  # classified at a time

METRICS = {
    "knn_top1": "top-1 accuracy of the nearest neighbours' vote, by the features of the best layer",
    "knn_best_layer": "that layer, counted from 1",
}


class Knn:
    """Of every layer.

    Args:
      layers: numbers of the layers, counted from 1.
      num_classes: number of classes.
      k: neighbours; all images that vote where they are fewer.
    """

    def __init__(self, layers: tuple[int, ...], num_classes: int, k: int):
        self._layers, self._num_classes, self._k = layers, num_classes, k
        self._vote = functools.cache(self._compile_vote)

    def __call__(self, mesh: Mesh, train: Features, test: Features) -> dict[str, float]:
        """`knn_top1` of the best layer, `knn_best_layer`, and `knn_top1_layerNN` of each.

        Args:
          mesh: of the devices.
          train: images that vote.
          test: images that are classified.
        """
        train, test = train.labelled(), test.labelled()
        top1 = [
            np.mean(self._classify(mesh, train.layer(layer), test.features[:, layer]) == test.labels)
            for layer in range(len(self._layers))
        ]
        return best_layer_metrics({"top1": np.array(top1)}, self._layers, prefix="knn_")

    def _classify(self, mesh: Mesh, train: Features, queries: np.ndarray) -> np.ndarray:
        bank, classes = put_everywhere(mesh, *train)
        size = -(-QUERIES // mesh.size) * mesh.size
        votes = []
        for start in range(0, len(queries), size):
            part = queries[start : start + size]
            (padded,) = put_rows(mesh, np.pad(part, ((0, size - len(part)), (0, 0))))
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
