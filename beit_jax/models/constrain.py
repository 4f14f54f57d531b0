"""The one seam at which activations are told how they are sharded."""

import math

import jax
from jax.sharding import AxisType, PartitionSpec

BATCH_AXES = ("data", "fsdp")


def batch_sharded(x: jax.Array) -> jax.Array:
    """Asks for `x` `[b, ...]` to be split over the mesh's batch axes and whole in every other dimension.

    Parameters are split over `fsdp` too; without this request XLA may let their sharding spread to activations and then
    report an involuntary full rematerialization. Without a mesh (`jax.set_mesh`), and for batches that it does not
    divide, such as the single image of an initialisation, this returns `x`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    axes = tuple(axis for axis in BATCH_AXES if kinds.get(axis) == AxisType.Auto)
    if not axes or x.shape[0] % math.prod(mesh.shape[axis] for axis in axes):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))
