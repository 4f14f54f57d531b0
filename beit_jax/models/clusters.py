"""k-means over the batches of a run, by Euclidean distance: the codes are means of vectors.

The first batch gives the first means: k-means++ draws them (Arthur and Vassilvitskii 2007), and a few iterations move
them. Each batch then moves every mean to that of all vectors that it was ever given (Sculley 2010, as scikit-learn's
`MiniBatchKMeans`). All functions see the vectors of the whole batch, over all devices and processes.
"""

import jax
import jax.numpy as jnp

from beit_jax.models import codebook
from beit_jax.typing import Params


def new_clusters(codes: int, width: int) -> Params:
    """Before the first batch: `vectors` `[k, c]`, `usage` `[k]` (vectors ever given), `is_made` `[1]`, all 0."""
    return {
        "vectors": jnp.zeros((codes, width), jnp.float32),
        "usage": jnp.zeros((codes,), jnp.float32),
        "is_made": jnp.zeros((1,), jnp.float32),
    }


def update(clusters: Params, key: jax.Array, vectors: jax.Array) -> Params:
    """The clusters after a batch of vectors `[n, c]`; n is at least k at the first one.

    Args:
      clusters: see `new_clusters`.
      key: of k-means++.
      vectors: float32, without a gradient.
    """
    return jax.lax.cond(
        clusters["is_made"][0] > 0,
        lambda: _moved(clusters, vectors),
        lambda: _started(key, vectors, len(clusters["vectors"])),
    )


def spread_out(key: jax.Array, vectors: jax.Array, count: int) -> jax.Array:
    """Some of the vectors `[n, c]`, far from each other: `[count, c]`.

    Each is drawn with a probability proportional to its squared distance from the nearest of those before it
    (k-means++); once all distances are 0, any.
    """
    of_first, of_others = jax.random.split(key)
    start = vectors[jax.random.randint(of_first, (), 0, len(vectors))]

    def draw(index: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        chosen, distances = state
        logits = jnp.where(jnp.any(distances > 0), jnp.log(distances), jnp.zeros_like(distances))
        drawn = vectors[jax.random.categorical(jax.random.fold_in(of_others, index), logits)]
        return chosen.at[index].set(drawn), jnp.minimum(distances, _squared_distances(vectors, drawn))

    chosen = jnp.zeros((count, vectors.shape[1]), vectors.dtype).at[0].set(start)
    return jax.lax.fori_loop(1, count, draw, (chosen, _squared_distances(vectors, start)))[0]


def _squared_distances(vectors: jax.Array, one: jax.Array) -> jax.Array:
    return jnp.sum((vectors - one[None]) ** 2, axis=-1)


def _started(key: jax.Array, vectors: jax.Array, codes: int) -> Params:
    def iterate(_: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        sums, counts = _sums(state[0], vectors)
        return jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1.0)[:, None], state[0]), counts

    start = spread_out(key, vectors, codes), jnp.zeros((codes,), jnp.float32)
    means, counts = jax.lax.fori_loop(0, codebook.ITERATIONS, iterate, start)
    return {"vectors": means, "usage": counts, "is_made": jnp.ones((1,), jnp.float32)}


def _moved(clusters: Params, vectors: jax.Array) -> Params:
    means = clusters["vectors"]
    sums, counts = _sums(means, vectors)
    usage = clusters["usage"] + counts
    moved = means + (sums - counts[:, None] * means) / jnp.maximum(usage, 1.0)[:, None]
    return {"vectors": moved, "usage": usage, "is_made": clusters["is_made"]}


def _sums(means: jax.Array, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum of the vectors that each mean is nearest to, `[k, c]`, and their number, float32 `[k]`."""
    tokens = codebook.nearest(means, vectors)
    counts = jax.ops.segment_sum(jnp.ones_like(tokens, jnp.float32), tokens, len(means))
    return jax.ops.segment_sum(vectors, tokens, len(means)), counts
