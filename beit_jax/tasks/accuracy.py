"""Accuracy, counted in one way for every task."""

import jax
import jax.numpy as jnp

TOP = 5  # as is usual


def hits(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Whether the true class is the most likely one, `top1`, and among the five most likely ones, `top5`.

    Of at most five classes, every one is among the five: there is no `top5` then.

    Args:
      logits: float `[..., c]`.
      labels: int `[...]`, the true classes.

    Returns:
      bool `[...]` by name.
    """
    rank = ranks(logits, labels)
    return {"top1": rank < 1} | ({f"top{TOP}": rank < TOP} if logits.shape[-1] > TOP else {})


def is_most_likely(logits: jax.Array, true: jax.Array) -> jax.Array:
    """Whether the true class is more likely than every other one; ties and NaN count against it, as with `ranks`.

    It needs the largest logit, as the cross-entropy does, so XLA computes both in the same passes over the logits. For
    that the count must be float32, like the sum of exponentials; up to 2^24 classes it is exact.

    Args:
      logits: float `[..., c]`.
      true: those of the true classes, float `[...]`.

    Returns:
      bool `[...]`.
    """
    largest = jnp.max(logits, axis=-1)
    return (true == largest) & (jnp.sum((logits == largest[..., None]).astype(jnp.float32), axis=-1) == 1.0)


def ranks(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many other classes are at least as likely as the true class.

    The true class is among the k most likely ones if its rank is below k. Ties and NaN count against the model, so that
    constant or broken logits are never right. This takes one reduction over the classes; an argmax takes two.

    Args:
      logits: float `[..., c]`.
      labels: int `[...]`, the true classes.

    Returns:
      int32 `[...]`, 0 to c - 1.
    """
    true = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    return jnp.sum(~(logits < true), axis=-1, dtype=jnp.int32) - 1
