"""How activations are sharded. In `models/`, only this file and `xla_workarounds.copy_per_shard` know the mesh."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

BATCH_AXES = ("data", "fsdp")
HEADS_AXIS = "tensor"


def batch_sharded(x: jax.Array) -> jax.Array:
    """Asks for `x` `[b, ...]` to be split over the mesh's batch axes, and in no other dimension.

    Parameters are split over `fsdp` too. Without this request XLA may spread their sharding to activations and then
    report an involuntary full rematerialization. Where the mesh does not split the batch this returns `x`.
    """
    axes = batch_axes(x.shape[0])
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x


def batch_axes(batch: int) -> tuple[str, ...]:
    """The axes of the mesh that split a batch of this size.

    There are none without a mesh (`jax.set_mesh`), and for a batch that they do not divide, such as the single image of
    an initialization.
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    axes = tuple(axis for axis in BATCH_AXES if types.get(axis) == AxisType.Auto)
    return () if batch % math.prod(mesh.shape[axis] for axis in axes) else axes


def heads_axes(heads: int) -> tuple[str, ...]:
    """The axes of the mesh that split attention heads: none without a mesh, or where they do not divide `heads`."""
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return (HEADS_AXIS,) if types.get(HEADS_AXIS) == AxisType.Auto and heads % mesh.shape[HEADS_AXIS] == 0 else ()


def on_shards(function: Callable, inputs: Any, outputs: Any) -> Callable:
    """`function` on the part of each device; XLA cannot split a kernel's work over devices by itself.

    Args:
      function: of arrays, to arrays.
      inputs: the `PartitionSpec` of each argument.
      outputs: that of the result, or of each result.
    """
    if not jax.sharding.get_abstract_mesh().axis_names:
        return function
    return jax.shard_map(function, in_specs=inputs, out_specs=outputs, check_vma=False)
