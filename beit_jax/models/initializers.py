"""The two initialisations of the official code: one for pre-training, one for fine-tuning and training from scratch."""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

STDDEV = 0.02
Scheme = Literal["pretrain", "finetune"]


def weights(scheme: Scheme) -> nn.initializers.Initializer:
    """Of linear layers, tokens and absolute positions.

    `pretrain`: a normal of 0.02 cut off at one standard deviation, the paper's "small range" [-0.02, 0.02], whose
    realised deviation is 0.0108. `finetune`: a plain normal of 0.02 (the official cut-off at +-2 is 100 deviations).
    """
    if scheme == "finetune":
        return nn.initializers.normal(STDDEV)

    def truncated(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return STDDEV * jax.random.truncated_normal(key, -1.0, 1.0, shape, dtype)

    return truncated


def patches(scheme: Scheme, fan_in: int) -> dict[str, nn.initializers.Initializer]:
    """Kernel and bias of the patch embedding; fine-tuning leaves PyTorch's default, uniform in +-1 / sqrt(fan_in)."""
    if scheme == "pretrain":
        return {"kernel_init": weights(scheme), "bias_init": nn.initializers.zeros}

    def uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        bound = 1.0 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return {"kernel_init": uniform, "bias_init": uniform}


def depth_rescaled(init: nn.initializers.Initializer, layer: jax.Array) -> nn.initializers.Initializer:
    """Divides by sqrt(2 (layer + 1)): of the products that write into the residual stream, `layer` counted from 0."""

    def rescaled(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return init(key, shape, dtype) / jnp.sqrt(2.0 * (layer.astype(jnp.float32) + 1.0))

    return rescaled
