"""Attention whose weights never leave the chip's fast memory: a kernel for TPUs, with a learned bias and its gradient.

XLA writes logits, weights and their gradients, `[b, h, n, n]`, to memory and reads them again, which takes most of the
time of attention. The kernels for TPUs that JAX and tokamax bring have no bias, or take one for every example. BEiT has
few tokens: fast memory holds the biases of all heads and what one head computes, so that a plain softmax is enough.

A program of the grid computes one example. The backward pass computes the weights again from queries and keys. It adds
up the gradient of the bias over the examples, in fast memory: over each half of them, one for each of the two cores of
a v4 or v5p.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

from beit_jax.models.constrain import batch_axes, heads_axes, on_shards

LANES = 128
FAST_MEMORY = 60 << 20  # bytes; v5p has 64 MiB, v5e and v6e have 128
# By the name that JAX has for a chip: bytes of its fast memory that the kernel may take.
CHIPS = {r"^TPU v4$": 15 << 20, r"^TPU (v5 lite|v5e|v5|v5p|v6 lite|v6e)$": FAST_MEMORY}
INTERMEDIATES = 8  # float32 `[n, n]` that the backward pass of one head may have at once


def pallas_attention(x: jax.Array, kernel: jax.Array, added: tuple[jax.Array, jax.Array], bias: jax.Array) -> jax.Array:
    """As `gpu_attention.cudnn_attention`; returns as many tokens as there are."""
    query, value = added
    columns = jnp.stack([query, jnp.zeros_like(query), value], axis=1).reshape(-1)
    return fused_attention(x @ kernel, columns, bias, len(query))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def fused_attention(
    projected: jax.Array, added: jax.Array, bias: jax.Array, heads: int, interpret: bool = False
) -> jax.Array:
    """softmax(q k^T / sqrt(c) + bias) v, with float32 logits and weights.

    Args:
      projected: queries, keys and values before their biases, `[b, n, (h 3 c)]`.
      added: their biases, float32 `[(h 3 c)]`.
      bias: float32 `[s, h, n, n]`, for each of the s shards into which the mesh splits the batch.
      heads: h.
      interpret: whether JAX runs the kernel operation by operation, which it does on any device.

    Returns:
      `[b, n, (h c)]` in the dtype of `projected`.
    """
    return _forward(projected, added, bias, heads, interpret)[0]


def fast_memory(device_kind: str) -> int:
    """Bytes of a device's fast memory that the kernel may take; 0: it was not made for this device."""
    return next((size for kind, size in CHIPS.items() if re.search(kind, device_kind)), 0)


def fits(tokens: int, width: int, heads: int, memory: int) -> bool:
    """Whether `memory` bytes of fast memory hold what a program needs for n `tokens` of `width` d."""
    padded = -(-tokens // LANES) * LANES
    return 4 * (2 * heads + INTERMEDIATES) * tokens * padded + 2 * 2 * 7 * tokens * width <= memory


def _forward(projected: jax.Array, added: jax.Array, bias: jax.Array, heads: int, interpret: bool) -> Any:
    def local(projected: jax.Array, added: jax.Array, bias: jax.Array) -> jax.Array:
        b, n, width = projected.shape
        mixed = jax.ShapeDtypeStruct((b, n, width // 3), projected.dtype)
        return _call(_forward_kernel, (projected, added, bias), mixed, interpret)

    tokens, columns, biases = _splits(len(projected), heads)
    function = on_shards(local, (tokens, columns, biases), tokens)
    return function(projected, added[None, None], bias), (projected, added, bias)


def _backward(heads: int, interpret: bool, saved: Any, cotangent: jax.Array) -> tuple[jax.Array, ...]:
    projected, added, bias = saved
    shards = len(bias)

    def local(*inputs: jax.Array) -> tuple[jax.Array, ...]:
        halves = _halves(len(inputs[0]))
        outputs = [jax.ShapeDtypeStruct((halves, *x.shape[1:]), x.dtype) for x in inputs[1:3]]
        d_tokens, *sums = _call(_backward_kernel, inputs, (_like(inputs[0]), *outputs), interpret)
        return d_tokens, *(jnp.sum(x, axis=0, keepdims=True) for x in sums)

    tokens, columns, biases = _splits(len(projected), heads)
    # Each shard adds up the gradient of the biases of its examples.
    copies = jnp.broadcast_to(added, (shards, 1, len(added)))
    by_shard = P(biases[0], *columns[1:])
    function = on_shards(local, (tokens, by_shard, biases, tokens), (tokens, by_shard, biases))
    d_projected, d_added, d_bias = function(projected, copies, bias, cotangent)
    return d_projected, jnp.sum(d_added, axis=(0, 1)), d_bias


fused_attention.defvjp(_forward, _backward)


def _splits(batch: int, heads: int) -> tuple[P, P, P]:
    """How tokens `[b, n, d]`, columns `[1, 1, d]` and biases `[s, h, n, n]` are split over the mesh."""
    examples, split = batch_axes(batch) or None, heads_axes(heads) or None
    return P(examples, None, split), P(None, None, split), P(examples, split)


def _halves(batch: int) -> int:
    """Into how many parts the examples are divided for the cores of a chip; one core takes all parts in turn."""
    return 1 if batch % 2 else 2


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _call(kernel: Callable, inputs: tuple[jax.Array, ...], outputs: Any, interpret: bool) -> Any:
    """Runs a kernel for each example. Arrays whose first axis is not the batch are in fast memory for all programs."""
    batch, heads = len(inputs[0]), inputs[2].shape[1]
    halves = _halves(batch)
    size = batch // halves

    def block(x: Any) -> pl.BlockSpec:
        is_tokens = x.ndim == 3 and x.shape[1] > 1  # columns are `[1, 1, d]`
        if is_tokens:
            return pl.BlockSpec((1, *x.shape[1:]), lambda half, i: (half * size + i, 0, 0))
        of_half = len(x.shape) > 1 and x.shape[0] == halves > 1
        rest = (0,) * (x.ndim - 1)
        place = (lambda half, i: (half, *rest)) if of_half else (lambda half, i: (0, *rest))
        return pl.BlockSpec((1, *x.shape[1:]), place, pipeline_mode=pl.Buffered(1))

    return pl.pallas_call(
        functools.partial(kernel, heads=heads),
        outputs,
        grid=(halves, size),
        in_specs=[block(x) for x in inputs],
        out_specs=jax.tree.map(block, outputs),
        compiler_params=pltpu.CompilerParams(
            vmem_limit_bytes=FAST_MEMORY, dimension_semantics=("parallel", "arbitrary")
        ),
        cost_estimate=_cost(inputs, outputs),
        interpret=interpret,
    )(*inputs)


def _cost(inputs: tuple[jax.Array, ...], outputs: Any) -> pl.CostEstimate:
    """For the compiler: products of `[n, c]` and `[n, n]`, two forward and five backward, and what is moved."""
    (batch, tokens, width), heads = inputs[0].shape, inputs[2].shape[1]
    products = 2 if len(inputs) == 3 else 5
    moved = sum(x.size * x.dtype.itemsize for x in [*inputs, *jax.tree.leaves(outputs)])
    return pl.CostEstimate(
        flops=products * 2 * batch * tokens**2 * width // 3,
        transcendentals=batch * heads * tokens**2,
        bytes_accessed=moved,
    )


def _forward_kernel(projected: Any, added: Any, bias: Any, mixed: Any, *, heads: int) -> None:
    def attend(head: Any, qkv: list[jax.Array]) -> jax.Array:
        return _product(_weights(*qkv[:2], bias[0, head]).astype(mixed.dtype), qkv[2], 1, 0)

    size = mixed.shape[2] // heads

    def step(group: Any, together: int) -> None:
        qkv = _with_biases(projected, added, group, together * 3 * size)
        parts = [attend(group * together + i, _split(qkv, i, size)) for i in range(together)]
        mixed[_place(group, together * size)] = jnp.concatenate(parts, axis=1).astype(mixed.dtype)

    _for_groups(step, heads, size)


def _backward_kernel(
    projected: Any, added: Any, bias: Any, d_mixed: Any, d_projected: Any, d_added: Any, d_bias: Any, *, heads: int
) -> None:
    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        d_added[...] = jnp.zeros_like(d_added)
        d_bias[...] = jnp.zeros_like(d_bias)

    size = d_mixed.shape[2] // heads

    def attend(head: Any, qkv: list[jax.Array], cotangent: jax.Array) -> list[jax.Array]:
        query, key, value = qkv
        weights = _weights(query, key, bias[0, head])
        d_weights = _product(cotangent, value, 1, 1)
        d_logits = weights * (d_weights - jnp.sum(weights * d_weights, axis=1, keepdims=True))
        d_bias[0, head] += d_logits
        d_logits = (d_logits * size**-0.5).astype(query.dtype)
        d_value = _product(weights.astype(value.dtype), cotangent, 0, 0)
        return [_product(d_logits, key, 1, 0), _product(d_logits, query, 0, 0), d_value]

    def step(group: Any, together: int) -> None:
        width = together * 3 * size
        qkv = _with_biases(projected, added, group, width)
        cotangents = _columns(d_mixed, group, together * size)
        parts = [
            attend(group * together + i, _split(qkv, i, size), cotangents[:, i * size : (i + 1) * size])
            for i in range(together)
        ]
        gradient = jnp.concatenate([part for of_head in parts for part in of_head], axis=1)
        d_projected[_place(group, width)] = gradient.astype(d_projected.dtype)
        d_added[_place(group, width)] += jnp.sum(gradient, axis=0, keepdims=True)

    _for_groups(step, heads, size)


def _for_groups(step: Callable, heads: int, size: int) -> None:
    """`step(group, heads in a group)` for the heads in groups that fill whole lanes, to which addresses must point."""
    together = LANES // math.gcd(LANES, size)
    together = heads if heads % together else together
    jax.lax.fori_loop(0, heads // together, lambda group, _: step(group, together), None)


def _place(group: Any, width: int) -> tuple:
    return 0, slice(None), pl.ds(pl.multiple_of(group * width, width), width)


def _columns(array: Any, group: Any, width: int) -> jax.Array:
    """The columns of a group, `[n, width]`."""
    return array[_place(group, width)]


def _with_biases(projected: Any, added: Any, group: Any, width: int) -> jax.Array:
    sums = _columns(projected, group, width).astype(jnp.float32) + _columns(added, group, width)
    return sums.astype(projected.dtype)


def _split(qkv: jax.Array, i: int, size: int) -> list[jax.Array]:
    """Query, key and value of the i-th head of a group, `[n, c]`."""
    return [qkv[:, (3 * i + part) * size : (3 * i + part + 1) * size] for part in range(3)]


def _weights(query: jax.Array, key: jax.Array, bias: jax.Array) -> jax.Array:
    """Attention weights of one head, float32 `[n, n]`."""
    logits = _product(query, key, 1, 1) * query.shape[-1] ** -0.5 + bias
    exponentials = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return exponentials / jnp.sum(exponentials, axis=1, keepdims=True)


def _product(left: jax.Array, right: jax.Array, left_axis: int, right_axis: int) -> jax.Array:
    """The product of two matrices over an axis of each, in float32."""
    axes = (((left_axis,), (right_axis,)), ((), ()))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)
