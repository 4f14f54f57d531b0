"""A pre-norm block with LayerScale and stochastic depth (`Block` in the official `modeling_finetune.py`)."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer

from beit_jax.models.attention import Attention
from beit_jax.models.constrain import batch_sharded
from beit_jax.models.initializers import divided


class Layer(NamedTuple):
    """What differs between the blocks of a stack: scalars in a block, `[L]` in the stack's scan."""

    index: jax.Array  # int32, counted from 0
    drop_path: jax.Array  # float32, the probability of leaving out a branch


def layers(depth: int, drop_path: float) -> Layer:
    """The stack of `depth` blocks L: indices, and rates `[L]` that rise linearly from 0 to `drop_path`."""
    rates = np.linspace(0.0, drop_path, depth, dtype=np.float32)
    return Layer(index=jnp.arange(depth, dtype=jnp.int32), drop_path=jnp.asarray(rates))


class Block(nn.Module):
    """x + drop(gamma_1 * attention(norm(x))), then the same with an MLP.

    Tokens pass through the stack in float32 whatever `dtype` is: at a LayerScale of 1e-5, as in large models, a branch
    adds less than half a unit in the last place of bfloat16 and would be rounded away.

    Attributes:
      heads: number of attention heads.
      mlp_ratio: hidden width of the MLP in units of d.
      grid: rows and columns of patches if the block owns a table of relative positions, else None.
      layer_scale: initial value of gamma_1 and gamma_2 `[d]`; at 0 they do not exist.
      stochastic_depth: whether branches are left out at the layer's rate, which needs the rng `drop_path`.
      collect: whether the output is also returned as the scan's second result.
      norm_eps: of the layer norms.
      kernel_init: initializer of all kernels. Those that end a branch are divided by sqrt(2 l), l = 1 in the first
        block, to keep the variance of the sum of branches bounded.
      dtype: of the matrix products.
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
          x: float32 `[b, n, d]`.
          layer: this block's place in the stack.
          bias: attention bias float32 `[p, h, n, n]` shared by all blocks, or None.

        Returns:
          float32 `[b, n, d]`, and the same once more if `collect`, else None.
        """
        x = batch_sharded(x)
        end_init = divided(self.kernel_init, jnp.sqrt(2.0 * (layer.index + 1).astype(jnp.float32)))
        attention = Attention(self.heads, self.grid, self.kernel_init, end_init, self.dtype, name="attn")
        mlp = Mlp(self.mlp_ratio * x.shape[-1], self.kernel_init, end_init, self.dtype, name="mlp")
        x = x + self._branch(attention(self._norm("norm1", x), bias), "gamma_1", layer)
        x = x + self._branch(mlp(self._norm("norm2", x)), "gamma_2", layer)
        x = batch_sharded(x)
        return x, x if self.collect else None

    def _norm(self, name: str, x: jax.Array) -> jax.Array:
        return layer_norm(name, self.norm_eps)(x).astype(self.dtype)

    def _branch(self, y: jax.Array, gamma: str, layer: Layer) -> jax.Array:
        y = y.astype(jnp.float32)
        if self.layer_scale:
            scale = self.param(gamma, nn.initializers.constant(self.layer_scale), y.shape[-1:], jnp.float32)
            y = y * scale[None, None]
        return drop_path(self.make_rng("drop_path"), y, layer.drop_path) if self.stochastic_depth else y


class Mlp(nn.Module):
    """fc1, exact GELU, fc2.

    Attributes:
      hidden: width between the two.
      kernel_init: initializer of `fc1/kernel`.
      end_init: initializer of `fc2/kernel`.
      dtype: of the matrix products.
    """

    hidden: int
    kernel_init: Initializer
    end_init: Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, n, d]` -> `[b, n, d]` in `dtype`."""
        y = nn.Dense(self.hidden, kernel_init=self.kernel_init, dtype=self.dtype, name="fc1")(x)
        y = gelu(y)
        return nn.Dense(x.shape[-1], kernel_init=self.end_init, dtype=self.dtype, name="fc2")(y)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x Phi(x), of any shape.

    Its derivative is given in one piece, float32, so that one array is kept for the backward pass and not several.
    """
    return nn.gelu(x, approximate=False)


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    y = x.astype(jnp.float32)
    slope = jax.scipy.stats.norm.cdf(y) + y * jax.scipy.stats.norm.pdf(y)
    return gelu(x), dx * slope.astype(x.dtype)


def layer_norm(name: str, eps: float) -> nn.LayerNorm:
    """A layer norm over d, in float32."""
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, dtype=jnp.float32, name=name)


def drop_path(key: jax.Array, y: jax.Array, rate: jax.Array) -> jax.Array:
    """Stochastic depth (arXiv 1603.09382): zeroes whole samples with probability `rate`, keeping the expectation.

    Args:
      key: random key.
      y: `[b, n, d]`.
      rate: scalar in [0, 1).

    Returns:
      `[b, n, d]`, each sample either 0 or y / (1 - rate).
    """
    kept = jax.random.bernoulli(key, 1.0 - rate, (y.shape[0], 1, 1))
    return jnp.where(kept, y / (1.0 - rate).astype(y.dtype), jnp.zeros((), y.dtype))
