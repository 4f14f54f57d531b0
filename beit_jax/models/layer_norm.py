"""The norm of tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from beit_jax.models.xla_workarounds import layer_norm


class LayerNorm(nn.Module):
    """A layer norm over d in float32, with parameters `scale` and `bias` `[d]`."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 `[..., d]` -> float32 `[..., d]`."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return layer_norm(x.astype(jnp.float32), scale, bias, self.epsilon)
