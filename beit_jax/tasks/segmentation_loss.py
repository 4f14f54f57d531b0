"""The loss of semantic segmentation: cross-entropy of every pixel."""

from typing import Literal

import jax
import jax.numpy as jnp

from beit_jax.models.label_maps import IGNORE
from beit_jax.models.pixel_layers import resize
from beit_jax.models.xla_workarounds import value_at

Denominator = Literal["all", "valid"]


def cross_entropy(
    logits: jax.Array, label: jax.Array, denominator: Denominator = "all", ignore: int = IGNORE
) -> tuple[jax.Array, jax.Array]:
    """The sum of cross-entropies, and what to divide it by.

    Logits are resized bilinearly to the label map. Ignored pixels add nothing to the sum.

    Args:
      logits: float32 `[b, h, w, c]`, not larger than the label map.
      label: int32 `[b, H, W]`, classes below c or `ignore`.
      denominator: "all" counts every pixel, ignored ones too (mmsegmentation 0.11, with which BEiT was fine-tuned), so
        that images with more labels weigh more; "valid" those with a label (transformers), none of which gives 0 / 0.
      ignore: the label of pixels without one.

    Returns:
      Two float32 scalars.
    """
    logits = resize(logits, label.shape[1:])
    valid = label != ignore
    losses = jax.nn.logsumexp(logits, axis=-1) - value_at(logits, label)
    count = jnp.sum(valid, dtype=jnp.int32) if denominator == "valid" else jnp.int32(label.size)
    return jnp.sum(jnp.where(valid, losses, 0.0)), count.astype(jnp.float32)
