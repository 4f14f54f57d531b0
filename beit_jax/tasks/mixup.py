"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of a batch on the device, as the official fine-tuning's timm.

One draw for the whole batch; the partner of each image is the one at the same place counted from the end. Cross-entropy
is linear in the target, so that a mixed, smoothed target is the mixture of two losses.
"""

import jax
import jax.numpy as jnp


def mix(
    key: jax.Array, images: jax.Array, mixup: float, cutmix: float, probability: float = 1.0, switch: float = 0.5
) -> tuple[jax.Array, jax.Array]:
    """Mixes images with their partners.

    Args:
      key: random key.
      images: `[b, h, w, c]`, normalised.
      mixup: both parameters of the Beta distribution of mixup's share; 0: no mixup (`--mixup`).
      cutmix: the same of CutMix (`--cutmix`).
      probability: that the batch is mixed at all (`--mixup_prob`).
      switch: probability of CutMix where both are on (`--mixup_switch_prob`).

    Returns:
      Images `[b, h, w, c]`, and the share of each image in its own mixture, a float32 scalar: that of its label too.
    """
    which, whether, mixup_key, cutmix_key, box_key = jax.random.split(key, 5)
    height, width = images.shape[1:3]
    cut = jax.random.bernoulli(which, switch if mixup and cutmix else float(cutmix > 0))
    on = jax.random.bernoulli(whether, probability)
    blend_share = jax.random.beta(mixup_key, mixup, mixup) if mixup else jnp.float32(1.0)
    inside = jnp.zeros((height, width), bool)
    if cutmix:
        inside = box(box_key, jax.random.beta(cutmix_key, cutmix, cutmix), height, width)
    cut_share = 1.0 - jnp.mean(inside, dtype=jnp.float32)
    share = jnp.where(on, jnp.where(cut, cut_share, blend_share), 1.0)
    own = jnp.where(cut, 1.0 - inside.astype(jnp.float32), blend_share)
    own = jnp.where(on, own, 1.0)[None, :, :, None].astype(images.dtype)
    return own * images + (1 - own) * images[::-1], share


def box(key: jax.Array, share: jax.Array, height: int, width: int) -> jax.Array:
    """The part of the image that CutMix takes from the partner.

    Sides are `sqrt(1 - share)` of the image's, cut to whole pixels, around a centre anywhere in the image; what lies
    outside of it is lost.

    Args:
      key: random key.
      share: that the image is to keep, a scalar.
      height: of the image in pixels.
      width: of the image in pixels.

    Returns:
      bool `[height, width]`.
    """
    side = jnp.sqrt(1.0 - share)

    def span(key: jax.Array, length: int) -> jax.Array:
        half = (side * length).astype(jnp.int32) // 2
        centre = jax.random.randint(key, (), 0, length)
        places = jnp.arange(length)
        return (places >= centre - half) & (places < centre + half)

    rows, columns = jax.random.split(key)
    return span(rows, height)[:, None] & span(columns, width)[None, :]
