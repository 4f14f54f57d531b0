"""Multi-head self-attention as in BEiT (`Attention` in the official `modeling_finetune.py`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.nn.initializers import Initializer

from beit_jax.models.gpu_attention import cudnn_attention
from beit_jax.models.relative_position import RelativePositionBias
from beit_jax.models.scaled_linear import Kernel, ScaledLinear
from beit_jax.models.tpu_attention import pallas_attention
from beit_jax.models.xla_workarounds import add_bias

FUSED = {"pallas": pallas_attention, "cudnn": cudnn_attention}


class Attention(nn.Module):
    """Self-attention with one fused projection, biases of queries and values, and a bias by relative position.

    Keys have no bias: it would add the same to all logits of a query, and the softmax cancels that.

    Parameters, with c = d/h: `qkv/kernel` `[d, (h 3 c)]`, `q_bias` and `v_bias` `[h, c]`, `proj/kernel` `[(h c), d]`.
    The columns of a head lie together for tensor parallelism; axes are merged because TPUs pad the last two.

    Attributes (others as in `Block`):
      kernel_init, proj_init: initializers of `qkv/kernel` and `proj/kernel`.
      dtype: of the matrix products; logits and softmax are float32.
      implementation: one of `variants.ATTENTIONS`; without a bias, and where weights are sown, it is "plain".
    """

    heads: int
    grid: tuple[int, int] | None
    kernel_init: Initializer
    proj_init: Initializer
    dtype: jnp.dtype = jnp.float32
    implementation: str = "plain"

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None = None, gamma: jax.Array | None = None) -> jax.Array:
        """`[b, n, d]` -> `[b, n, d]` in `dtype`.

        The attention weights float32 `[b, h, n, n]` are sown as `weights` in the collection `intermediates`.

        Args:
          x: tokens `[b, n, d]`; here n counts the class token too.
          bias: float32 `[s, h, n, n]`, shared by all blocks (see `RelativePositionBias`). If `grid` is given, the block
            adds a bias of its own.
          gamma: see `ScaledLinear`.
        """
        tokens, width = x.shape[1:]
        kernel = Kernel(self.kernel_init, name="qkv")((width, 3 * width)).astype(self.dtype)
        shape = (self.heads, width // self.heads)
        query, value = (self.param(name, nn.initializers.zeros, shape, jnp.float32) for name in ("q_bias", "v_bias"))
        if self.grid is not None:
            own = RelativePositionBias(self.heads, self.grid, name="relative_position")(x.shape[0])
            bias = own if bias is None else bias + own
        plain = self.implementation == "plain" or bias is None or self.is_mutable_collection("intermediates")
        attend = self._attend if plain else FUSED[self.implementation]
        mixed = attend(x.astype(self.dtype), kernel, (query, value), bias)
        return ScaledLinear(width, self.proj_init, self.dtype, name="proj")(mixed, gamma)[:, :tokens]

    def _attend(self, x: jax.Array, kernel: jax.Array, added: tuple, bias: jax.Array | None) -> jax.Array:
        """As `gpu_attention.cudnn_attention`."""
        projected = rearrange(x @ kernel, "b n (h i c) -> b n h i c", h=self.heads, i=3)
        query, key, value = jnp.unstack(projected, axis=3)
        query = query + added[0].astype(self.dtype)[None, None]
        value = value + added[1].astype(self.dtype)[None, None]
        weights = attention_weights(query, key, bias)
        self.sow("intermediates", "weights", weights)
        mixed = jnp.einsum("bhqk,bkhc->bqhc", weights.astype(self.dtype), value)
        return rearrange(mixed, "b n h c -> b n (h c)")


def attention_weights(query: jax.Array, key: jax.Array, bias: jax.Array | None) -> jax.Array:
    """softmax(q k^T / sqrt(d/h) + bias), float32 `[b, h, n, n]`; rows belong to queries and sum to one.

    Args:
      query: `[b, n, h, d/h]`.
      key: `[b, n, h, d/h]`.
      bias: float32 `[s, h, n, n]`, or None.
    """
    logits = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    return jax.nn.softmax(logits if bias is None else add_bias(logits, bias))
