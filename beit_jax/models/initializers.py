"""How initial weights are drawn: the two ways of BEiT's encoder, and those of the layers that segmentation adds.

"pretrain": a normal distribution of deviation 0.02 cut at one deviation, which leaves a deviation of 0.0108
(`modeling_pretrain.py`; the paper's "small range, such as [-0.02, 0.02]").
"finetune": the same normal uncut, and PyTorch's default of convolutions for the projection of patches
(`modeling_finetune.py`). It matters only to models that are trained from scratch.

Segmentation: `KAIMING` for the convolutions before a batch norm (mmcv's `ConvModule`), and `transposed_uniform`,
PyTorch's default, for transposed convolutions (official `backbone/beit.py`).
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

STDDEV = 0.02
KAIMING = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # variance 2 / (kernel's pixels * outputs)
Scheme = Literal["pretrain", "finetune"]


class Initializers(NamedTuple):
    """Initializers of linear kernels, tokens and position embeddings (`weight`) and of the projection of patches."""

    weight: Initializer
    patch_kernel: Initializer
    patch_bias: Initializer


def initializers(scheme: Scheme, patch_size: int, channels: int = 3) -> Initializers:
    """The initializers of a scheme, for patches of `patch_size` pixels a side of so many channels."""
    if scheme == "pretrain":
        cut_normal = jax.nn.initializers.truncated_normal(STDDEV, lower=-1.0, upper=1.0)
        return Initializers(cut_normal, cut_normal, jax.nn.initializers.zeros)
    if scheme == "finetune":
        uniform = symmetric_uniform(1.0 / math.sqrt(channels * patch_size**2))
        return Initializers(jax.nn.initializers.normal(STDDEV), uniform, uniform)
    raise ValueError(f"found init_scheme={scheme!r}, expected 'pretrain' or 'finetune'")


def symmetric_uniform(bound: float) -> Initializer:
    """Uniform on [-bound, bound)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def transposed_uniform(outputs: int, pixels: int) -> Initializer:
    """PyTorch's default for kernel and bias of a transposed convolution of so many output channels and kernel pixels.

    PyTorch takes outputs for inputs here, since it stores the kernel of a transposed convolution as `[in, out, h, w]`.
    """
    return symmetric_uniform(1.0 / math.sqrt(outputs * pixels))


def divided(init: Initializer, divisor: jax.Array) -> Initializer:
    """`init`, with what it draws divided by `divisor`, a scalar that may be traced."""

    def divided_init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return init(key, shape, dtype) / divisor.astype(dtype)

    return divided_init
