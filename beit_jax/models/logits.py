"""The last layer of a head."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from beit_jax.models.xla_workarounds import float32_product


class Logits(nn.Module):
    """A linear layer, `kernel` `[d, c]` and `bias` `[c]`, that multiplies in `dtype` and returns float32.

    In bfloat16, logits that are almost equal would be rounded to the same number.
    """

    classes: int
    kernel_init: Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., d]` -> float32 `[..., c]`."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.classes), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.classes,), jnp.float32)
        product = float32_product(x.astype(self.dtype), kernel.astype(self.dtype))
        return product + jnp.expand_dims(bias, range(x.ndim - 1))
