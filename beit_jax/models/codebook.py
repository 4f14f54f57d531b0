"""A codebook of unit vectors that follows moving averages (BEiT v2, section 2.1; official `norm_ema_quantizer.py`).

Its values have no gradient: k-means on the vectors of the first batch makes them, and each training step moves every
code that was used towards the mean of its vectors. All functions see the vectors of the whole batch, over all devices
and processes, so there is one codebook. (Each process of the official code starts from k-means on its own vectors.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from beit_jax.models.initializers import STDDEV
from beit_jax.typing import Params

EPSILON = 1e-12  # of the lengths that vectors are divided by
ITERATIONS = 10  # of k-means


class Quantized(NamedTuple):
    """What a codebook makes of vectors.

    Attributes:
      tokens: int32 `[...]`, the nearest code of each vector.
      vectors: float32 `[..., c]`, these codes, with the gradient of the vectors (straight-through).
      commitment: float32 scalar, mean square of the difference between vectors and codes, which moves vectors alone.
    """

    tokens: jax.Array
    vectors: jax.Array
    commitment: jax.Array


def new_codebook(key: jax.Array, codes: int, width: int) -> Params:
    """A codebook before its k-means: `vectors` `[k, c]`, `usage` `[k]`, and `is_made` `[1]`, 0 until k-means ran."""
    return {
        "vectors": unit(STDDEV * jax.random.normal(key, (codes, width), jnp.float32)),
        "usage": jnp.zeros((codes,), jnp.float32),
        "is_made": jnp.zeros((1,), jnp.float32),
    }


def unit(x: jax.Array) -> jax.Array:
    """Vectors `[..., c]` at length 1; shorter ones than `EPSILON` stay shorter."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), EPSILON)


def nearest(codes: jax.Array, vectors: jax.Array) -> jax.Array:
    """The code nearest to each vector, the first of equal ones: `[k, c]`, `[..., c]` -> int32 `[...]`.

    The square of the vector is the same for all codes, and would hide small differences.
    """
    products = jnp.einsum("...c,kc->...k", vectors, codes, precision="highest")
    squares = jnp.sum(codes**2, axis=-1).reshape((1,) * (vectors.ndim - 1) + (-1,))
    return jnp.argmin(squares - 2.0 * products, axis=-1).astype(jnp.int32)


def quantize(codes: jax.Array, vectors: jax.Array) -> Quantized:
    """Replaces vectors by their nearest codes.

    Args:
      codes: unit vectors, float32 `[k, c]`.
      vectors: unit vectors, float32 `[..., c]`.
    """
    codes = jax.lax.stop_gradient(codes)
    tokens = nearest(codes, jax.lax.stop_gradient(vectors))
    chosen = codes[tokens]
    commitment = jnp.mean((chosen - vectors) ** 2)
    return Quantized(tokens, vectors + jax.lax.stop_gradient(chosen - vectors), commitment)


def start_once(codebook: Params, key: jax.Array, vectors: jax.Array) -> Params:
    """The codebook, which k-means on unit vectors `[n, c]` makes if none has made it yet."""

    def make() -> Params:
        start = start_vectors(key, vectors, codebook["vectors"].shape[0])
        codes, _ = k_means(start, vectors)
        return {"vectors": codes, "usage": codebook["usage"], "is_made": jnp.ones((1,), jnp.float32)}

    return jax.lax.cond(codebook["is_made"][0] > 0, lambda: dict(codebook), make)


def start_vectors(key: jax.Array, vectors: jax.Array, codes: int) -> jax.Array:
    """Different ones of the vectors `[n, c]` drawn at random, `[codes, c]`; n is at least as large."""
    return vectors[jax.random.permutation(key, vectors.shape[0])[:codes]]


def k_means(start: jax.Array, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Spherical k-means: unit means `[k, c]`, and how many vectors each had in the last iteration, float32 `[k]`.

    Args:
      start: `[k, c]`, the first means. A mean that no vector is nearest to stays where it is.
      vectors: unit vectors `[n, c]`.
    """

    def iterate(_: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        means, _ = state
        tokens = jnp.argmax(jnp.einsum("nc,kc->nk", vectors, means, precision="highest"), axis=-1)
        return means_by_code(means, tokens, vectors)

    return jax.lax.fori_loop(0, ITERATIONS, iterate, (start, jnp.zeros(start.shape[0], jnp.float32)))


def means_by_code(codes: jax.Array, tokens: jax.Array, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean of each code's vectors at length 1, `[k, c]`, and their number, float32 `[k]`; without any, the code.

    Args:
      codes: unit vectors `[k, c]`.
      tokens: `[n]`, of the vectors.
      vectors: unit vectors `[n, c]`.
    """
    counts = jax.ops.segment_sum(jnp.ones_like(tokens, jnp.float32), tokens, codes.shape[0])
    sums = jax.ops.segment_sum(vectors, tokens, codes.shape[0])
    means = unit(sums / jnp.maximum(counts, 1.0)[:, None])
    return jnp.where(counts[:, None] > 0, means, codes), counts


def move(codebook: Params, tokens: jax.Array, vectors: jax.Array, decay: float) -> Params:
    """The codebook after a step: codes that were used move to the means of their vectors.

    Args:
      codebook: before the step.
      tokens: int32 `[n]`.
      vectors: the unit vectors that they stand for, float32 `[n, c]`, without a gradient.
      decay: of the moving averages.
    """
    old = codebook["vectors"]
    means, counts = means_by_code(old, tokens, vectors)
    return {
        "vectors": unit(decay * old + (1.0 - decay) * means),
        "usage": decay * codebook["usage"] + (1.0 - decay) * counts,
        "is_made": codebook["is_made"],
    }


def revive(codebook: Params, key: jax.Array, vectors: jax.Array, below: float) -> Params:
    """The codebook, in which codes that are hardly used take the place of random vectors of the batch.

    Nothing happens before the moving averages have seen about as many steps as they remember.

    Args:
      codebook: after `move`.
      key: of the step.
      vectors: unit vectors `[n, c]`.
      below: the usage below which a code counts as unused, in units of the mean usage.
    """
    codes, usage = codebook["vectors"], codebook["usage"]
    mean = jnp.mean(usage)
    is_known = mean > 0.9 * vectors.shape[0] / codes.shape[0]
    unused = is_known & (usage < below * mean)
    drawn = vectors[jax.random.randint(key, (codes.shape[0],), 0, vectors.shape[0])]
    return codebook | {
        "vectors": jnp.where(unused[:, None], drawn, codes),
        "usage": jnp.where(unused, mean, usage),  # time to be found
    }
