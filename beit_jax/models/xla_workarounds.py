"""What is written as it is only because of XLA.

Each function equals the plain expression that its docstring gives, and the tests hold it to that. With these set apart,
the rest of the models reads as the method does. Figures were measured on a 2-core CPU (docs/benchmarks.md has the steps
of which some are parts), or are XLA's own estimates and plans for a TPU v5e, and then are called so.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.models.constrain import batch_axes, batch_sharded


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x Phi(x), of any shape.

    Plain: `nn.gelu(x, approximate=False)`.

    JAX derives that operation by operation and keeps several arrays for the backward pass. Here the derivative is one
    function, computed in float32, and nothing but its value is kept: one array of `[b, n, 4d]` less in each block, on
    every backend (a step of Ti/16 on a CPU: 1,261 -> 1,039 MB, 1,087 -> 1,039 ms).
    """
    return nn.gelu(x, approximate=False)


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    y = x.astype(jnp.float32)
    derivative = jax.scipy.stats.norm.cdf(y) + y * jax.scipy.stats.norm.pdf(y)
    return gelu(x), dx * derivative.astype(x.dtype)


def copy_per_shard(x: jax.Array, batch: int) -> jax.Array:
    """Copies of `x` `[...]`, one for each of the s shards that the mesh makes of a batch of that size: `[s, ...]`.

    Plain: `x[None]`, one for all, which this is where the mesh does not split the batch.

    It is for a small parameter of which a large array is made, such as the table of relative positions. The gradient is
    a sum over the whole batch, and with one for all XLA's partitioner exchanges it between devices as the large array.
    Copies keep it on their devices, and are summed here, where there is least to send (on every backend, a step of L/16
    on 8 devices: 99 MiB less; UPerNet at 512 pixels: 1,006 MiB less).
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

    The gradient of the bias is a sum over the batch, which here is a product with ones. XLA for CPU takes 7.6 ms for
    the sum and 0.2 ms for the product, once in each block (a step of Ti/16: 1,055 -> 1,000 ms). For accelerators it
    makes the one from the other.
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

    As the product of every patch with one matrix it is faster (forward and backward: patches of 16 pixels on a CPU
    26 -> 23 ms, estimated for a TPU 0.42 -> 0.35 ms; 1x1 on a CPU 40 -> 32 ms, estimated for a TPU 3.2 -> 1.6 ms).
    """
    p = kernel.shape[0]
    patches = rearrange(x, "b (h y) (w x) i -> b h w (y x i)", y=p, x=p)
    return patches @ rearrange(kernel, "y x i o -> (y x i) o")


def value_at(x: jax.Array, index: jax.Array) -> jax.Array:
    """The entry of `x` `[..., c]` at int `index` `[...]` of its last axis, 0 where there is none: `[...]`.

    Plain: `jnp.take_along_axis(x, index[..., None], axis=-1)[..., 0]`, for indices below c.

    The gradient of an indexing is a scatter, which accelerators do not fuse with what makes and what takes it. That of
    a comparison with all indices is elementwise (temporaries of a cross-entropy as XLA plans them for a TPU: of 4
    images of 512x512 pixels and 150 classes 919 -> 304 MiB, of 64 x 75 tokens out of 8,192 160 -> 80 MiB). On a CPU it
    is slower where there are few classes (256x256 pixels: 50 -> 71 ms) and as fast where there are many.
    """
    chosen = index[..., None] == jnp.arange(x.shape[-1], dtype=index.dtype).reshape((1,) * index.ndim + (-1,))
    return jnp.sum(jnp.where(chosen, x, jnp.zeros((), x.dtype)), axis=-1)
