"""Multi-head self-attention as in BEiT (`Attention` in the official `modeling_finetune.py`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from beit_jax.models.relative_position import RelativePositionBias
from beit_jax.models.xla_workarounds import add_bias


class Attention(nn.Module):
    """Self-attention with one fused projection, biases of queries and values, and a bias by relative position.

    Keys have no bias: it would add the same to all logits of a query, and the softmax cancels that. Heads are an axis
    of every parameter, so that tensor parallelism splits that axis and nothing else: `qkv/kernel` `[d, 3, h, d/h]`,
    `q_bias` and `v_bias` `[h, d/h]`, `proj/kernel` `[h, d/h, d]`.

    Attributes (others as in `Block`):
      kernel_init: initializer of `qkv/kernel`.
      proj_init: initializer of `proj/kernel`.
      dtype: of the matrix products; logits and softmax are float32.
    """

    heads: int
    grid: tuple[int, int] | None
    kernel_init: Initializer
    proj_init: Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        """`[b, n, d]` -> `[b, n, d]` in `dtype`.

        The attention weights float32 `[b, h, n, n]` are sown as `weights` in the collection `intermediates`.

        Args:
          x: tokens `[b, n, d]`; here n counts the class token too.
          bias: float32 `[s, h, n, n]`, shared by all blocks (see `RelativePositionBias`). If `grid` is given, the block
            adds a bias of its own.
        """
        width = x.shape[-1]
        shape = (self.heads, width // self.heads)
        qkv = nn.DenseGeneral((3, *shape), use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype, name="qkv")
        query, key, value = jnp.unstack(qkv(x), axis=2)
        query = query + self._bias("q_bias", shape)
        value = value + self._bias("v_bias", shape)
        if self.grid is not None:
            own = RelativePositionBias(self.heads, self.grid, name="relative_position")(x.shape[0])
            bias = own if bias is None else bias + own
        weights = attention_weights(query, key, bias)
        self.sow("intermediates", "weights", weights)
        mixed = jnp.einsum("bhqk,bkhc->bqhc", weights.astype(self.dtype), value)
        return nn.DenseGeneral(width, axis=(-2, -1), kernel_init=self.proj_init, dtype=self.dtype, name="proj")(mixed)

    def _bias(self, name: str, shape: tuple[int, int]) -> jax.Array:
        return self.param(name, nn.initializers.zeros, shape, jnp.float32).astype(self.dtype)[None, None]


def attention_weights(query: jax.Array, key: jax.Array, bias: jax.Array | None) -> jax.Array:
    """softmax(q k^T / sqrt(d/h) + bias), float32 `[b, h, n, n]`; rows belong to queries and sum to one.

    `jax.nn.dot_product_attention` cannot be used: its XLA path cannot be differentiated in bfloat16 under strict dtype
    promotion, and its cuDNN path accepts no bias if the number of tokens is odd.

    Args:
      query: `[b, n, h, d/h]`.
      key: `[b, n, h, d/h]`.
      bias: float32 `[s, h, n, n]`, or None.
    """
    logits = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    return jax.nn.softmax(logits if bias is None else add_bias(logits, bias))
