"""Attention by cuDNN, which keeps the attention weights in fast memory, with a learned bias and its gradient.

cuDNN takes queries, keys and values as arrays of their own, and, if the bias is learned, an even number of tokens. So
tokens are padded before they are projected, which costs nothing: a norm writes them in any case.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import PartitionSpec as P

from beit_jax.models.constrain import batch_axes, heads_axes, on_shards

MULTIPLE = 8  # of tokens, so that rows of a bfloat16 bias begin at multiples of 16 bytes
OLDEST = (8, 0)  # compute capability, of A100
TOLERANCE = 0.05  # of a trial, as a fraction of the largest value: that of bfloat16 and of a sum over few tokens


def cudnn_attention(
    x: jax.Array,
    kernel: jax.Array,
    added: tuple[jax.Array, jax.Array],
    bias: jax.Array,
    implementation: str = "cudnn",
) -> jax.Array:
    """softmax(q k^T / sqrt(c) + bias) v, where x W makes q, k and v.

    Args:
      x: tokens `[b, n, d]`, bfloat16 for cuDNN.
      kernel: W `[d, (h 3 c)]`.
      added: float32 biases of queries and values, `[h, c]` each.
      bias: float32 `[s, h, n, n]`, for each of the s shards into which the mesh splits the batch. cuDNN gets it, and
        returns its gradient, in the dtype of `x`.
      implementation: that of `jax.nn.dot_product_attention`; "xla" computes the same on any device.

    Returns:
      `[b, m, (h c)]` in the dtype of `x`, for m >= n tokens; those after n mean nothing.
    """
    (_, tokens, _), heads = x.shape, len(added[0])
    excess = -tokens % MULTIPLE
    padded = jnp.pad(x, ((0, 0), (0, excess), (0, 0)))
    query, key, value = (
        rearrange(padded @ part.astype(x.dtype), "b n (h c) -> b n h c", h=heads)
        for part in rearrange(kernel, "d (h i c) -> i d (h c)", h=heads, i=3)
    )
    query, value = (y + biases.astype(x.dtype)[None, None] for y, biases in ((query, added[0]), (value, added[1])))
    ends = ((0, 0), (0, 0), (0, excess))
    lowest = jnp.finfo(x.dtype).min / 2  # no weight, and finite in sums
    columns = jnp.pad(bias.astype(x.dtype), (*ends, (0, excess)))
    columns = jnp.where((jnp.arange(tokens + excess) < tokens)[None, None, None], columns, jnp.asarray(lowest, x.dtype))
    attend = functools.partial(jax.nn.dot_product_attention, implementation=implementation)
    examples, split = batch_axes(len(x)) or None, heads_axes(heads) or None
    of_heads = P(examples, None, split)
    function = on_shards(attend, (of_heads, of_heads, of_heads, P(examples, split)), of_heads)
    return rearrange(function(query, key, value, columns), "b n h c -> b n (h c)")


def has_cudnn(device: jax.Device) -> bool:
    """Whether a device is a GPU of NVIDIA for which cuDNN has such attention."""
    if device.platform != "gpu" or "NVIDIA" not in device.device_kind:
        return False
    return tuple(map(int, device.compute_capability.split("."))) >= OLDEST


@functools.cache
def fault(
    tokens: int,
    heads: int,
    size: int,
    device: jax.Device,
    implementation: str = "cudnn",
    dtype: jnp.dtype = jnp.bfloat16,
) -> str:
    """What is wrong with cuDNN's attention, as one line; empty if it computes what XLA does, with all gradients.

    cuDNN's versions differ in what they support, so that only a trial tells. It takes about a second, on a GPU of this
    process.

    Args:
      tokens: n.
      heads: h.
      size: c, of a head.
      device: of the run. One that is not there, for which programs are only compiled, passes.
      implementation: that on trial.
      dtype: of the products.
    """
    if device not in jax.devices():
        return ""
    # A task may be asked for its model while JAX traces it, or within a mesh.
    alone = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))
    with jax.ensure_compile_time_eval(), alone, jax.default_device(jax.local_devices()[0]):
        return _compare(tokens, heads, size, implementation, dtype)


def _compare(tokens: int, heads: int, size: int, implementation: str, dtype: jnp.dtype) -> str:
    width = heads * size
    shapes = (2, tokens, width), (width, 3 * width), (heads, size), (heads, size), (1, heads, tokens, tokens)
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]

    def loss(arrays: list[jax.Array], dtype: jnp.dtype, implementation: str) -> jax.Array:
        x, kernel, query, value, bias = arrays
        kernel = (kernel * width**-0.5).astype(dtype)
        mixed = cudnn_attention(x.astype(dtype), kernel, (query, value), bias, implementation)
        return jnp.mean(jnp.square(mixed[:, :tokens].astype(jnp.float32)))

    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))
    try:
        found = jax.device_get(gradient(arrays, dtype, implementation))
        expected = jax.device_get(gradient(arrays, jnp.float32, "xla"))
    except Exception as error:  # JAX's, XLA's or cuDNN's, of several types
        return str(error).splitlines()[0]
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    difference = np.max([np.abs(ours - theirs).max() / np.abs(theirs).max() for ours, theirs in pairs])  # keeps NaN
    return "" if difference < TOLERANCE else f"its results differ by {difference:.0%} from those of XLA"
