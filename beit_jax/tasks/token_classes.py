"""How well tokens agree with the classes of images: TCAS, token-class alignment similarity (arXiv 2407.09087).

It judges a tokenizer before anything is pre-trained on it. Two images of a class should have tokens in common, and two
images of different classes should not. From R, where R[c, v] is how often token v occurs in images of class c:

    P[:, v] = R[:, v] / sum_c R[c, v]              the classes that a token stands for
    S = P P^T, each row divided by its sum         how much the tokens of two classes overlap; ideally the identity I
    TCAS = mean over all pairs of classes of (S - I)^2                                              lower is better

Tokens without classes have (c - 1) / c^2. The paper's code does not contain the measure, and says nothing of classes or
tokens that do not occur: those are left out here. It was written from the paper's description, and compared with no
value of the authors.
"""

import jax
import jax.numpy as jnp
import numpy as np


def count_by_class(tokens: jax.Array, labels: jax.Array, valid: jax.Array, classes: int, vocab: int) -> jax.Array:
    """How often each token occurs in images of each class, float32 `[c, v]`.

    Args:
      tokens: int32 `[b, ...]`, of images.
      labels: int32 `[b]`, their classes.
      valid: float32 `[b]` of 0 and 1, the images that count.
      classes: c.
      vocab: v.
    """
    flat = tokens.reshape(len(tokens), -1)
    weights = jnp.broadcast_to(valid[:, None], flat.shape)
    cells = labels[:, None] * vocab + flat
    return jax.ops.segment_sum(weights.reshape(-1), cells.reshape(-1), classes * vocab).reshape(classes, vocab)


def tcas(counts: np.ndarray) -> float:
    """The measure from `[c, v]`, see above."""
    counts = np.asarray(counts, np.float64)
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    shares = counts / counts.sum(axis=0, keepdims=True)
    overlap = shares @ shares.T
    overlap /= overlap.sum(axis=1, keepdims=True)
    return float(np.mean((overlap - np.eye(len(overlap))) ** 2))
