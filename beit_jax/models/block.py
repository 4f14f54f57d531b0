"""A pre-norm block with LayerScale and stochastic depth (`Block` in the official `modeling_finetune.py`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from beit_jax.models.attention import Attention
from beit_jax.models.constrain import batch_sharded
from beit_jax.models.drop_path import drop_path
from beit_jax.models.initializers import divided
from beit_jax.models.layer_norm import LayerNorm
from beit_jax.models.scaled_linear import ScaledLinear
from beit_jax.models.stack import Layer
from beit_jax.models.xla_workarounds import gelu


class Block(nn.Module):
    """x + drop(gamma_1 * attention(norm(x))), then the same with an MLP.

    Tokens stay float32 from block to block, whatever `dtype` is: at a LayerScale of 1e-5, as in large models, a branch
    adds less than half a unit in the last place of bfloat16 and would be rounded away.

    Attributes (others as in `Encoder`):
      grid: rows and columns of patches if the block owns a table of relative positions, else None.
      layer_scale: initial value of gamma_1 and gamma_2 `[d]`; at 0 they do not exist.
      stochastic_depth: whether branches are left out at the layer's rate, which needs the rng `drop_path`.
      collect: whether the output is also returned as the scan's second result.
      kernel_init: initializer of kernels. In block l, counted from 1, the last kernel of each branch is then divided by
        sqrt(2 l), so that the sum of many branches stays small.
    """

    heads: int
    mlp_ratio: int
    grid: tuple[int, int] | None
    layer_scale: float
    stochastic_depth: bool
    collect: bool
    norm_eps: float
    kernel_init: Initializer
    attention: str = "plain"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, layer: Layer, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """One step of the scan over blocks.

        Args:
          x: tokens float32 `[b, n, d]`; here n counts the class token too.
          layer: what this block does not share with the others.
          bias: attention bias float32 `[s, h, n, n]` for all blocks, or None; s is explained in `RelativePositionBias`.

        Returns:
          float32 `[b, n, d]`, and the same once more if `collect`, else None.
        """
        x = batch_sharded(x)
        end_init = divided(self.kernel_init, jnp.sqrt(2.0 * (layer.index + 1).astype(jnp.float32)))
        attend = Attention(self.heads, self.grid, self.kernel_init, end_init, self.dtype, self.attention, name="attn")
        mlp = Mlp(self.mlp_ratio * x.shape[-1], self.kernel_init, end_init, self.dtype, name="mlp")
        gamma_1, gamma_2 = (self._gamma(name, x.shape[-1]) for name in ("gamma_1", "gamma_2"))
        x = x + self._kept(attend(self._norm("norm1", x), bias, gamma_1), layer)
        x = batch_sharded(x + self._kept(mlp(self._norm("norm2", x), gamma_2), layer))
        return x, x if self.collect else None

    def _norm(self, name: str, x: jax.Array) -> jax.Array:
        return LayerNorm(self.norm_eps, name=name)(x).astype(self.dtype)

    def _gamma(self, name: str, width: int) -> jax.Array | None:
        return self.param(name, nn.initializers.constant(self.layer_scale), (width,)) if self.layer_scale else None

    def _kept(self, y: jax.Array, layer: Layer) -> jax.Array:
        y = y.astype(jnp.float32)
        return drop_path(self.make_rng("drop_path"), y, layer.drop_path) if self.stochastic_depth else y


class Mlp(nn.Module):
    """A linear layer `fc1` to `hidden` numbers, exact GELU, a linear layer `fc2` back to d; `end_init` is for `fc2`."""

    hidden: int
    kernel_init: Initializer
    end_init: Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, gamma: jax.Array | None = None) -> jax.Array:
        """`[b, n, d]` -> `[b, n, d]` in `dtype`; `gamma`: see `ScaledLinear`."""
        y = gelu(nn.Dense(self.hidden, kernel_init=self.kernel_init, dtype=self.dtype, name="fc1")(x))
        return ScaledLinear(x.shape[-1], self.end_init, self.dtype, name="fc2")(y, gamma)
