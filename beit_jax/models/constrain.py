"""The one seam at which activations are told how they are sharded."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

BATCH_AXES = ("data", "fsdp")


def batch_sharded(x: jax.Array) -> jax.Array:
    """Asks for `x` `[b, ...]` to be split over the mesh's batch axes and whole in every other dimension.

    Parameters are split over `fsdp` too; without this request XLA may let their sharding spread to activations and then
    report an involuntary full rematerialization. Without a mesh (`jax.set_mesh`), and for batches that it does not
    divide, such as the single image of an initialisation, this returns `x`.
    """
    axes = _axes_for(x.shape[0])
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x


def one_per_part(x: jax.Array, rows: int) -> jax.Array:
    """A copy of `x` `[...]` for each part that the mesh makes of a batch of `rows`, one to a device: `[parts, ...]`.

    Gradients of what is computed from copies stay on their devices, and are summed over them here: for a small `x` of
    which large arrays are made, that is the place where there is least to send. Where `batch_sharded` does nothing,
    there is one part.
    """
    axes = _axes_for(rows)
    if not axes:
        return x[None]
    mesh = jax.sharding.get_abstract_mesh()
    parts = math.prod(mesh.shape[axis] for axis in axes)
    return batch_sharded(jnp.broadcast_to(x[None], (parts, *x.shape)))


def _axes_for(rows: int) -> tuple[str, ...]:
    """The axes of the mesh that split a batch of `rows`, if they divide it."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    axes = tuple(axis for axis in BATCH_AXES if kinds.get(axis) == AxisType.Auto)
    return () if rows % math.prod(mesh.shape[axis] for axis in axes) else axes
