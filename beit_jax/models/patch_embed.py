"""From pixels to one vector per patch (`PatchEmbed` in the official `modeling_finetune.py`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.nn.initializers import Initializer

from beit_jax.errors import UserError
from beit_jax.models.xla_workarounds import convolution_without_overlap


def patch_grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches in an image of height and width `image_size`, in pixels."""
    height, width = image_size
    if height % patch_size or width % patch_size:
        raise UserError(
            f"found images of {height}x{width} pixels, expected multiples of the patch size {patch_size}: "
            f"resize to e.g. {height - height % patch_size or patch_size}x{width - width % patch_size or patch_size}"
        )
    return height // patch_size, width // patch_size


class PatchEmbed(nn.Module):
    """A linear projection of patches of p = `patch_size` pixels a side to d = `width` numbers.

    It is a convolution with `kernel` `[p, p, c, d]` and stride p, plus `bias` `[d]`, c the channels of an image.
    """

    width: int
    patch_size: int
    kernel_init: Initializer
    bias_init: Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """`[b, H, W, c]` -> `[b, n, d]` in `dtype`, patches in row-major order."""
        kernel_shape = (self.patch_size, self.patch_size, images.shape[-1], self.width)
        kernel = self.param("kernel", self.kernel_init, kernel_shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.width,), jnp.float32)
        patches = convolution_without_overlap(images.astype(self.dtype), kernel.astype(self.dtype))
        return rearrange(patches, "b gh gw d -> b (gh gw) d") + bias.astype(self.dtype)[None, None]
