"""The seam between models and sharding."""

import jax
from jax.sharding import PartitionSpec as P


def batch_sharded(x: jax.Array) -> jax.Array:
    """Keeps the rows of activations `[b, ...]` split over the mesh axes `data` and `fsdp`, where there is such a mesh.

    Without this, XLA may prefer to split activations as it finds the parameters split, and move them at every block.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not {"data", "fsdp"} <= set(mesh.axis_names):
        return x
    if x.shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]):
        return x  # the one-row batch of an initialisation
    return jax.lax.with_sharding_constraint(x, P(("data", "fsdp")))
