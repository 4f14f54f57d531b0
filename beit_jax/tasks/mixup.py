"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of a batch on the device, as timm does in the official code.

There is one draw for the whole batch, and the partner of each image is the one at the same index counted from the end.
Cross-entropy is linear in the target, so that a mixed and smoothed target amounts to the mixture of two losses.
"""

import jax
import jax.numpy as jnp

CUTMIX_PROBABILITY = 0.5  # where both are on (`--mixup_switch_prob`)


def mix(key: jax.Array, images: jax.Array, mixup: float, cutmix: float) -> tuple[jax.Array, jax.Array]:
    """Mixes images with their partners.

    Args:
      key: random key.
      images: `[b, h, w, c]`, normalised.
      mixup: both parameters of the Beta distribution from which mixup draws a fraction; 0: no mixup (`--mixup`).
      cutmix: the same of CutMix (`--cutmix`).

    Returns:
      Images `[b, h, w, c]`, and the fraction of its own mixture that an image has, a float32 scalar: that of its label
      too.
    """
    choice_key, _, mixup_key, cutmix_key, box_key = jax.random.split(key, 5)
    height, width = images.shape[1:3]
    cut = jax.random.bernoulli(choice_key, CUTMIX_PROBABILITY if mixup and cutmix else float(cutmix > 0))
    blended = jax.random.beta(mixup_key, mixup, mixup) if mixup else jnp.float32(1.0)
    inside = jnp.zeros((height, width), bool)
    if cutmix:
        inside = cutmix_box(box_key, jax.random.beta(cutmix_key, cutmix, cutmix), height, width)
    fraction = jnp.where(cut, 1.0 - jnp.mean(inside, dtype=jnp.float32), blended)
    own = jnp.where(cut, 1.0 - inside.astype(jnp.float32), blended)[None, :, :, None].astype(images.dtype)
    return own * images + (1 - own) * images[::-1], fraction


def cutmix_box(key: jax.Array, fraction: jax.Array, height: int, width: int) -> jax.Array:
    """The part of an image that CutMix takes from the partner, bool `[height, width]`.

    Its sides are those of the image times `sqrt(1 - fraction)`, cut to whole pixels. Its centre is anywhere in the
    image, and what lies outside of the image is lost.

    Args:
      key: random key.
      fraction: of the image that is to be kept, a scalar.
      height: of the image in pixels.
      width: of the image in pixels.
    """
    side = jnp.sqrt(1.0 - fraction)

    def span(key: jax.Array, length: int) -> jax.Array:
        half = (side * length).astype(jnp.int32) // 2
        centre = jax.random.randint(key, (), 0, length)
        pixels = jnp.arange(length)
        return (pixels >= centre - half) & (pixels < centre + half)

    row_key, column_key = jax.random.split(key)
    return span(row_key, height)[:, None] & span(column_key, width)[None, :]
