"""A linear layer whose outputs LayerScale multiplies, and the kernel of one that is computed elsewhere."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer


class ScaledLinear(nn.Module):
    """gamma * (x W + b), computed as x (gamma * W) + gamma * b.

    So the gradient of gamma comes from that of the kernel. Otherwise the layer's output, `[b, n, d]`, would be kept and
    read again for it.

    Attributes:
      features: d.
      kernel_init: initializer of `kernel` `[i, d]`.
      dtype: of the product.
    """

    features: int
    kernel_init: Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, gamma: jax.Array | None) -> jax.Array:
        """`[b, n, i]` -> `[b, n, d]` in `dtype`; `gamma` `[d]`, None: no LayerScale."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        if gamma is not None:
            kernel, bias = kernel * gamma[None], bias * gamma
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)[None, None]


class Kernel(nn.Module):
    """The parameter `kernel` alone, for a product that is computed elsewhere."""

    init_kernel: Initializer

    @nn.compact
    def __call__(self, shape: tuple[int, int]) -> jax.Array:
        """float32 of `shape`."""
        return self.param("kernel", self.init_kernel, shape, jnp.float32)
