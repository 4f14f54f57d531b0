"""The visual tower of CLIP (Radford et al. 2021; `VisionTransformer` in OpenAI's `clip/model.py`, and open_clip)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.nn.initializers import Initializer

from beit_jax.models.attention import Attention
from beit_jax.models.constrain import batch_sharded
from beit_jax.models.initializers import initializers
from beit_jax.models.layer_norm import LayerNorm
from beit_jax.models.patch_embed import patch_grid
from beit_jax.models.scaled_linear import Kernel
from beit_jax.models.stack import Layer, layers, stacked
from beit_jax.models.xla_workarounds import convolution_without_overlap, gelu


class ClipVision(nn.Module):
    """A vision transformer with a norm before the first block. Every token passes the last norm and the projection.

    Attributes (others as in `vit.Encoder`):
      projection: numbers in a feature c; 0: there is no projection, and c is d.
      quick_gelu: whether the MLPs have x sigmoid(1.702 x), as OpenAI's; False: exact GELU, as most of open_clip.
    """

    width: int
    depth: int
    heads: int
    patch_size: int
    projection: int
    quick_gelu: bool
    norm_eps: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Normalized images `[b, H, W, 3]` -> features `[b, n, c]` in `dtype` of the patches, row-major."""
        patch_grid(images.shape[1:3], self.patch_size)
        init = initializers("finetune", self.patch_size)
        kernel_shape = (self.patch_size, self.patch_size, 3, self.width)
        kernel = Kernel(init.patch_kernel, name="patch_embed")(kernel_shape).astype(self.dtype)
        x = rearrange(convolution_without_overlap(images.astype(self.dtype), kernel), "b gh gw d -> b (gh gw) d")

        cls_token = self.param("cls_token", init.weight, (1, 1, self.width), jnp.float32)
        cls_token = jnp.broadcast_to(cls_token, (x.shape[0], 1, self.width))
        x = jnp.concatenate([cls_token, x.astype(jnp.float32)], axis=1)
        x = x + self.param("pos_embed", init.weight, (1, *x.shape[1:]), jnp.float32)
        x = LayerNorm(self.norm_eps, name="norm_pre")(x)

        blocks = stacked(ClipBlock, self.depth, remat="none", unroll=1)(
            self.heads, self.quick_gelu, self.norm_eps, init.weight, self.dtype, name="blocks"
        )
        x, _ = blocks(batch_sharded(x), layers(self.depth, 0.0), None)
        x = LayerNorm(self.norm_eps, name="norm")(x[:, 1:]).astype(self.dtype)
        if not self.projection:
            return x
        projection = Kernel(nn.initializers.normal(self.width**-0.5), name="projection")((self.width, self.projection))
        return x @ projection.astype(self.dtype)


class ClipBlock(nn.Module):
    """x + attention(norm(x)), then the same with an MLP; attributes as in `ClipVision`.

    `Attention` has no bias of keys, which CLIP's has: the softmax cancels it.
    """

    heads: int
    quick_gelu: bool
    norm_eps: float
    kernel_init: Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, layer: Layer, bias: None) -> tuple[jax.Array, None]:
        """One step of the scan over blocks, on tokens float32 `[b, n, d]`; here n counts the class token too."""
        attend = Attention(self.heads, None, self.kernel_init, self.kernel_init, self.dtype, name="attn")
        mlp = ClipMlp(4 * x.shape[-1], self.quick_gelu, self.kernel_init, self.dtype, name="mlp")
        x = x + attend(LayerNorm(self.norm_eps, name="norm1")(x)).astype(jnp.float32)
        x = x + mlp(LayerNorm(self.norm_eps, name="norm2")(x)).astype(jnp.float32)
        return batch_sharded(x), None


class ClipMlp(nn.Module):
    """A linear layer `fc1` to `hidden` numbers, a GELU, and a linear layer `fc2` back to d."""

    hidden: int
    quick_gelu: bool
    kernel_init: Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, n, d]` -> `[b, n, d]` in `dtype`."""
        y = nn.Dense(self.hidden, kernel_init=self.kernel_init, dtype=self.dtype, name="fc1")(x)
        y = quick_gelu(y) if self.quick_gelu else gelu(y)
        return nn.Dense(x.shape[-1], kernel_init=self.kernel_init, dtype=self.dtype, name="fc2")(y)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)
