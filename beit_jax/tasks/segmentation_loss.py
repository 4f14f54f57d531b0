"""The loss of semantic segmentation: cross-entropy of every pixel."""

import jax
import jax.numpy as jnp

from beit_jax.models.label_maps import IGNORE
from beit_jax.models.pixel_layers import resize
from beit_jax.models.xla_workarounds import value_at


def cross_entropy(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum of cross-entropies, and what to divide it by, two float32 scalars.

    Ignored pixels add nothing to the sum, but count, so that images with more labels have more weight. This is the rule
    of mmsegmentation 0.11, with which BEiT was fine-tuned; transformers divides by the number of labelled pixels.

    Args:
      logits: float32 `[b, h, w, c]`, not larger than the label map, to which they are resized bilinearly.
      label: int32 `[b, H, W]`, classes below c, or 255 for pixels without a label.
    """
    logits = resize(logits, label.shape[1:])
    losses = jax.nn.logsumexp(logits, axis=-1) - value_at(logits, label)
    return jnp.sum(jnp.where(label != IGNORE, losses, 0.0)), jnp.float32(label.size)
