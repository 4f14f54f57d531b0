"""Expressions that are written in another way than in the paper, because XLA compiles them better.

Each function equals the plain expression in its docstring; tests compare the two. The other files of `models/` are
written as in the paper. Times and sizes were measured on a CPU with two cores (docs/benchmarks.md), unless they are
called estimated or planned: those are XLA's own numbers for a TPU v5e.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.models.constrain import batch_axes, batch_sharded


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x Phi(x), of any shape, computed in float32.

    Plain: `nn.gelu(x, approximate=False)`.

    JAX differentiates the plain expression operation by operation, and keeps several arrays `[b, n, 4d]` for the
    backward pass. Here only `x` is kept, and Phi(x) is computed again (a step of Ti/16 on a CPU: 1,261 -> 1,039 MB).
    Phi(x) comes from the exponential that the derivative needs too, by formula 7.1.26 of Abramowitz and Stegun. XLA's
    own erfc costs TPUs as much as the product before it, and its erf has more than twice the error (|x| < 9: 1.1e-6
    against 4.2e-7).
    """
    return _gelu(x)[0]


def _gelu(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x Phi(x) and its derivative, in the dtype of `x`."""
    y = x.astype(jnp.float32)
    exponential = jnp.exp(-0.5 * jnp.square(y))
    t = 1.0 / (1.0 + 0.3275911 * math.sqrt(0.5) * jnp.abs(y))
    polynomial = jnp.polyval(jnp.asarray([1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0]), t)
    upper_tail = 0.5 * polynomial * exponential
    phi = jnp.where(y < 0, upper_tail, 1.0 - upper_tail)
    derivative = phi + y * exponential * (2.0 * math.pi) ** -0.5
    return (y * phi).astype(x.dtype), derivative.astype(x.dtype)


def _gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Without the barrier XLA would find that Phi(x) is computed twice, and keep it in float32.
    return _gelu(x)[0], jax.lax.optimization_barrier(x)


def _gelu_backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    return (cotangent * _gelu(x)[1],)


gelu.defvjp(_gelu_forward, _gelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """A layer norm of float32 `x` `[..., d]`, with `scale` and `bias` `[d]`.

    Plain: `nn.LayerNorm(epsilon, use_fast_variance=False)`.

    Derived operation by operation, that one keeps two arrays `[..., d]` for the backward pass. Here it keeps `x`, which
    is kept anyway where a residual is added, and two numbers for each token.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, Any]:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    ends = range(x.ndim - 1)
    y = (x - mean) * inverse * jnp.expand_dims(scale, ends) + jnp.expand_dims(bias, ends)
    # Without the barrier XLA for GPUs would compute them again for `d_x`, and then write the gradients in float32.
    return y, (x, *jax.lax.optimization_barrier((mean, inverse)), scale)


def _layer_norm_backward(epsilon: float, saved: Any, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, inverse, scale = saved
    ends = tuple(range(x.ndim - 1))
    centred, broadcast = x - mean, jnp.expand_dims(scale, ends)
    # In this order XLA for TPUs computes all three sums in the epilogue of the product that makes the cotangent.
    along = cotangent * centred
    d_scale = jnp.sum(along * inverse, axis=ends)
    d_inverse = jnp.sum(along * broadcast, axis=-1, keepdims=True)
    d_centred = cotangent * (inverse * broadcast)
    d_x = d_centred - jnp.mean(d_centred, axis=-1, keepdims=True) - centred * (d_inverse * inverse**3 / x.shape[-1])
    return d_x, d_scale, jnp.sum(cotangent, axis=ends)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def float32_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x` `[..., i]` times `kernel` `[i, o]`, of one dtype, as float32 `[..., o]`.

    Plain: `jnp.matmul(x, kernel, preferred_element_type=jnp.float32)`.

    The gradient of that one multiplies in float32, which GPUs do at half the speed or less. Here the gradient of the
    result is rounded to the dtype of `x`, as TPUs do by themselves.
    """
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


def _float32_product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return float32_product(x, kernel), (x, kernel)


def _float32_product_backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    rounded = cotangent.astype(x.dtype)
    return rounded @ kernel.T, jnp.einsum("...i,...o->io", x, rounded)


float32_product.defvjp(_float32_product_forward, _float32_product_backward)


def copy_per_shard(x: jax.Array, batch: int) -> jax.Array:
    """Copies of `x` `[...]`, `[s, ...]`: one for each of the s shards into which the mesh splits `batch` examples.

    Plain: `x[None]`, one copy for all shards. If the mesh does not split the batch, the result is exactly this.

    Use it for a small parameter from which a large array is computed, such as the table of relative positions. The
    gradient of the parameter is a sum over the whole batch. With one copy, XLA sums the gradient of the large array
    over the devices. With a copy for each shard, each device computes the gradient of its own copy, and only these
    small gradients are summed over the devices (on every backend, a step of L/16 on 8 devices sends 99 MiB less,
    UPerNet at 512 pixels 1,006 MiB less).
    """
    axes = batch_axes(batch)
    if not axes:
        return x[None]
    mesh = jax.sharding.get_abstract_mesh()
    shards = math.prod(mesh.shape[axis] for axis in axes)
    return batch_sharded(jnp.broadcast_to(x[None], (shards, *x.shape)))


def add_bias(logits: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds to `logits` `[b, h, n, n]` the `bias` `[s, h, n, n]` of each of s shards of the batch; see `copy_per_shard`.

    Plain: `logits + bias` where s is 1, else `logits + jnp.repeat(bias, b // s, axis=0)`.

    The gradient of the bias is a sum over the batch. Here it is computed as a product with a vector of ones: in each
    block, XLA for CPU takes 7.6 ms for the sum and 0.2 ms for the product (a step of Ti/16: 1,055 -> 1,000 ms). For
    accelerators XLA compiles both to the same.
    """
    return _add_bias(len(bias), logits, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _add_bias(shards: int, logits: jax.Array, bias: jax.Array) -> jax.Array:
    total = rearrange(logits, "(s b) h q k -> s b h q k", s=shards) + bias[:, None]
    return rearrange(total, "s b h q k -> (s b) h q k")


def _add_bias_forward(shards: int, logits: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return _add_bias(shards, logits, bias), None


def _add_bias_backward(shards: int, _: None, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    split = rearrange(cotangent, "(s b) h q k -> s b h q k", s=shards)
    ones = jnp.ones(split.shape[1], cotangent.dtype)
    return cotangent, jnp.einsum("sbhqk,b->shqk", split, ones, precision=jax.lax.Precision.HIGHEST)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def convolution_without_overlap(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution whose stride is the size of its kernel: `[b, H, W, i]`, `[p, p, i, o]` -> `[b, H/p, W/p, o]`.

    Plain: `jax.lax.conv_general_dilated(x, kernel, (p, p), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))`.

    Here every patch is multiplied with one matrix, which is faster. Times, forward and backward: for patches of 16
    pixels, 26 -> 23 ms on a CPU, estimated 0.42 -> 0.35 ms on a TPU; for 1x1, 40 -> 32 ms and estimated 3.2 -> 1.6 ms.
    The pixels of a patch's row are one axis when patches are cut out: TPUs would pad an axis of 3 channels to 128.
    """
    p = kernel.shape[0]
    rows = rearrange(x, "b h w i -> b h (w i)")
    patches = rearrange(rows, "b (h y) (w j) -> b h w (y j)", y=p, j=p * x.shape[-1])
    return patches @ rearrange(kernel, "y x i o -> (y x i) o")


def halved(x: jax.Array) -> jax.Array:
    """Max-pooling over squares of 2x2 pixels: `[b, 2h, 2w, c]` -> `[b, h, w, c]`.

    Plain: `reduce(x, "b (h 2) (w 2) c -> b h w c", "max")`.

    That one reshapes before it reduces. Times for 16 images of 112x112 with 64 channels on a CPU: 37 -> 5 ms; estimated
    for 64 of them with 256 channels, with the layers around it: v5e 10.6 -> 8.3 ms, v6e 6.8 -> 3.9 ms.
    """
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def value_at(x: jax.Array, index: jax.Array) -> jax.Array:
    """The entries of `x` `[..., c]` at `index`, int `[...]`, along the last axis: `[...]`; 0 if `index` is outside.

    Plain: `jnp.take_along_axis(x, index[..., None], axis=-1)[..., 0]`, for indices from 0 to c - 1.

    The gradient of indexing is a scatter. Accelerators do not fuse a scatter with the operations before and after it.
    The gradient of this comparison with all indices is elementwise, so it is fused. Temporaries of a cross-entropy,
    planned for a TPU: for 4 images of 512x512 pixels and 150 classes, 919 -> 304 MiB; for 64 x 75 tokens and 8,192
    classes, 160 -> 80 MiB. On a CPU the comparison is slower with few classes (256x256 pixels: 50 -> 71 ms), and as
    fast with many.
    """
    chosen = index[..., None] == jnp.arange(x.shape[-1], dtype=index.dtype).reshape((1,) * index.ndim + (-1,))
    return jnp.sum(jnp.where(chosen, x, jnp.zeros((), x.dtype)), axis=-1)
