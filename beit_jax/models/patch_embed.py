"""From pixels to one vector per patch (`PatchEmbed` in the official `modeling_finetune.py`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.nn.initializers import Initializer

from beit_jax.errors import UserError


def patch_grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """HostBatch and columns of patches in an image of height and width `image_size`, all in pixels."""
    height, width = image_size
    if height % patch_size or width % patch_size:
        raise UserError(
            f"found images of {height}x{width} pixels, expected multiples of the patch size {patch_size}: "
            f"resize to e.g. {height - height % patch_size or patch_size}x{width - width % patch_size or patch_size}, "
            f"or choose another patch size"
        )
    return height // patch_size, width // patch_size


class PatchEmbed(nn.Module):
    """A linear projection of each patch.

    The kernel has the shape `[p, p, 3, d]` of the equivalent convolution of stride p; applied as a matrix product it
    is faster on CPU and no slower elsewhere.

    Attributes:
      width: d.
      patch_size: p, side of a patch in pixels.
      kernel_init: initializer of `kernel`.
      bias_init: initializer of `bias` `[d]`.
      dtype: of the matrix product.
    """

    width: int
    patch_size: int
    kernel_init: Initializer
    bias_init: Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """`[b, H, W, 3]` -> `[b, n, d]` in `dtype`, patches in row-major order."""
        p = self.patch_size
        kernel = self.param("kernel", self.kernel_init, (p, p, 3, self.width), jnp.float32)
        bias = self.param("bias", self.bias_init, (self.width,), jnp.float32)
        patches = rearrange(images, "b (gh ph) (gw pw) c -> b (gh gw) (ph pw c)", ph=p, pw=p)
        projected = patches.astype(self.dtype) @ rearrange(kernel, "h w c d -> (h w c) d").astype(self.dtype)
        return projected + bias.astype(self.dtype)[None, None]
