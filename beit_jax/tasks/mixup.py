"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of a batch on the device, as timm does in the official code.

There is one draw for each group of images that follow one another, officially those of a GPU. The partner of an image
is the one at the same index of its group, counted from the end. Cross-entropy is linear in the target, so that a mixed
and smoothed target amounts to the mixture of two losses.
"""

import jax
import jax.numpy as jnp

CUTMIX_PROBABILITY = 0.5  # where both are on (`--mixup_switch_prob`)


def mix(
    key: jax.Array, images: jax.Array, labels: jax.Array, mixup: float, cutmix: float, most: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mixes images with their partners.

    Args:
      key: random key.
      images: `[b, h, w, c]`, normalised; b is even.
      labels: `[b]`.
      mixup: both parameters of the Beta distribution from which mixup draws a fraction; 0: no mixup (`--mixup`).
      cutmix: the same of CutMix (`--cutmix`).
      most: images of a group, at most.

    Returns:
      Images `[b, h, w, c]`; the fraction of its own mixture that an image, and its label, has, float32 `[b]`; and the
      labels of the partners, `[b]`.
    """
    n = group_size(len(images), most)
    grouped, grouped_labels = (values.reshape(-1, n, *values.shape[1:]) for values in (images, labels))
    keys = jax.random.split(key, len(grouped))
    own, fraction = jax.vmap(lambda key: _draw(key, images.shape[1:3], mixup, cutmix))(keys)
    own = own[:, None, :, :, None].astype(images.dtype)
    mixed = own * grouped + (1 - own) * grouped[:, ::-1]
    fractions = jnp.broadcast_to(fraction[:, None], grouped_labels.shape)
    return mixed.reshape(images.shape), fractions.reshape(-1), grouped_labels[:, ::-1].reshape(-1)


def group_size(b: int, most: int) -> int:
    """The largest even number up to `most` that divides a batch of `b` images."""
    return max(size for size in range(2, min(most, b) + 1, 2) if b % size == 0)


def _draw(key: jax.Array, shape: tuple[int, int], mixup: float, cutmix: float) -> tuple[jax.Array, jax.Array]:
    """How much of each pixel an image keeps, float32 `[h, w]`, and the mean of that."""
    choice_key, mixup_key, cutmix_key, box_key = jax.random.split(key, 4)
    cut = jax.random.bernoulli(choice_key, CUTMIX_PROBABILITY if mixup and cutmix else float(cutmix > 0))
    blended = jax.random.beta(mixup_key, mixup, mixup) if mixup else jnp.float32(1.0)
    inside = jnp.zeros(shape, bool)
    if cutmix:
        inside = cutmix_box(box_key, jax.random.beta(cutmix_key, cutmix, cutmix), *shape)
    fraction = jnp.where(cut, 1.0 - jnp.mean(inside, dtype=jnp.float32), blended)
    return jnp.where(cut, 1.0 - inside.astype(jnp.float32), blended), fraction


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
