"""Layers that the heads for classes of pixels share.

The running statistics of a batch norm are parameters, `mean` and `var`, so that they are saved, restored, averaged and
converted with the others. They have no gradient: a training step replaces them by what `BatchNorm` sows as `updates`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.models.initializers import KAIMING

NORM_EPS, NORM_MOMENTUM = 1e-5, 0.1


class BatchNorm(nn.Module):
    """Batch norm, over the batch of all devices: `[b, h, w, c]` -> float32 of that shape."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """With `train`, statistics are the batch's, and the new running ones are sown in the collection `updates`."""
        shape, x = x.shape[-1:], x.astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = jax.lax.stop_gradient(self.param("mean", nn.initializers.zeros, shape, jnp.float32))
        var = jax.lax.stop_gradient(self.param("var", nn.initializers.ones, shape, jnp.float32))
        if train:
            count = x.size // x.shape[-1]
            batch_mean = jnp.mean(x, axis=(0, 1, 2))
            batch_var = jnp.mean((x - batch_mean[None, None, None]) ** 2, axis=(0, 1, 2))
            unbiased = batch_var * (count / max(count - 1, 1))
            self.sow("updates", "mean", (1 - NORM_MOMENTUM) * mean + NORM_MOMENTUM * batch_mean)
            self.sow("updates", "var", (1 - NORM_MOMENTUM) * var + NORM_MOMENTUM * unbiased)
            mean, var = batch_mean, batch_var
        factor = scale * jax.lax.rsqrt(var + NORM_EPS)
        return x * factor[None, None, None] + (bias - mean * factor)[None, None, None]


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU.

    Attributes:
      features: output channels.
      size: side of the kernel, odd.
      dtype: of the convolution.
    """

    features: int
    size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[b, h, w, c]` -> float32 `[b, h, w, features]`."""
        kernel = (self.size, self.size)
        settings = dict(padding="SAME", use_bias=False, kernel_init=KAIMING, dtype=self.dtype)
        x = nn.Conv(self.features, kernel, **settings, name="conv")(x)
        return nn.relu(BatchNorm(name="norm")(x, train))


def pixel_logits(x: jax.Array, num_classes: int, dropout: float, train: bool) -> jax.Array:
    """A classifier of every pixel, `[b, h, w, d]` -> float32 `[b, h, w, c]`; to be called in a compact method.

    In training, channels of an image are left out with all their pixels at the rate `dropout` (rng `dropout`), since
    neighbouring pixels of a channel are nearly equal (mmsegmentation's `BaseDecodeHead`).
    """
    x = nn.Dropout(dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
    return nn.Dense(num_classes, kernel_init=nn.initializers.normal(0.01), name="classifier")(x)


def block_maps(outputs: jax.Array, layers: Sequence[int], rows: int) -> list[jax.Array]:
    """Outputs of all blocks `[L, b, n+1, d]` -> maps `[b, rows, n / rows, d]` of the blocks `layers`, from 0."""
    return [rearrange(outputs[i][:, 1:], "b (h w) d -> b h w d", h=rows) for i in layers]


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resizing of `[b, h, w, c]` to a size not smaller; cells keep their area (align_corners=False)."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)
