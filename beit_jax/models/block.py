"""A pre-norm block with LayerScale and stochastic depth (`Block` in the official `modeling_finetune.py`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from beit_jax.models.attention import Attention
from beit_jax.models.constrain import batch_sharded
from beit_jax.models.initializers import divided
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
        attention = Attention(self.heads, self.grid, self.kernel_init, end_init, self.dtype, name="attn")
        mlp = Mlp(self.mlp_ratio * x.shape[-1], self.kernel_init, end_init, self.dtype, name="mlp")
        x = x + self._branch("gamma_1", attention(self._norm("norm1", x), bias), layer)
        x = x + self._branch("gamma_2", mlp(self._norm("norm2", x)), layer)
        x = batch_sharded(x)
        return x, x if self.collect else None

    def _norm(self, name: str, x: jax.Array) -> jax.Array:
        return layer_norm(name, self.norm_eps)(x).astype(self.dtype)

    def _branch(self, gamma: str, y: jax.Array, layer: Layer) -> jax.Array:
        y = y.astype(jnp.float32)
        if self.layer_scale:
            scale = self.param(gamma, nn.initializers.constant(self.layer_scale), y.shape[-1:], jnp.float32)
            y = y * scale[None, None]
        return drop_path(self.make_rng("drop_path"), y, layer.drop_path) if self.stochastic_depth else y


class Mlp(nn.Module):
    """A linear layer `fc1` to `hidden` numbers, exact GELU, a linear layer `fc2` back to d; `end_init` is for `fc2`."""

    hidden: int
    kernel_init: Initializer
    end_init: Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, n, d]` -> `[b, n, d]` in `dtype`."""
        y = gelu(nn.Dense(self.hidden, kernel_init=self.kernel_init, dtype=self.dtype, name="fc1")(x))
        return nn.Dense(x.shape[-1], kernel_init=self.end_init, dtype=self.dtype, name="fc2")(y)


def layer_norm(name: str, eps: float) -> nn.LayerNorm:
    """A layer norm over d, in float32."""
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, dtype=jnp.float32, name=name)


def drop_path(key: jax.Array, y: jax.Array, rate: jax.Array) -> jax.Array:
    """Stochastic depth (arXiv 1603.09382): `y` `[b, n, d]`, each example 0 at probability `rate`, else y / (1 - rate).

    Args:
      key: random key.
      y: `[b, n, d]`.
      rate: scalar in [0, 1).
    """
    kept = jax.random.bernoulli(key, 1.0 - rate, (y.shape[0], 1, 1))
    return jnp.where(kept, y / (1.0 - rate).astype(y.dtype), jnp.zeros((), y.dtype))
