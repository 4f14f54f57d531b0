"""The mesh, and which part of each array lives on which device.

Axes: batches are split over `data` and `fsdp`; parameters and optimizer states over `fsdp` and `tensor` by the rules
below. Axis types are Auto: XLA propagates the shardings and inserts the collectives.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from beit_jax.errors import UserError
from beit_jax.training.params import choose, map_names

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))

# The first axis of `blocks/` parameters is the layer. Heads, hidden units and the vocabulary are split over `tensor`.
PARTITION = (
    (r"blocks/attn/qkv/kernel$", P(None, "fsdp", None, "tensor", None)),  # [l, d, 3, h, hd]
    (r"blocks/attn/[qv]_bias$", P(None, "tensor", None)),  # [l, h, hd]
    (r"blocks/attn/proj/kernel$", P(None, "tensor", None, "fsdp")),  # [l, h, hd, d]
    (r"blocks/mlp/fc1/kernel$", P(None, "fsdp", "tensor")),  # [l, d, m]
    (r"blocks/mlp/fc1/bias$", P(None, "tensor")),
    (r"blocks/mlp/fc2/kernel$", P(None, "tensor", "fsdp")),  # [l, m, d]
    (r"lm_head/kernel$", P("fsdp", "tensor")),  # [d, v]
    (r"lm_head/bias$", P("tensor")),
    (r"/conv(_\d)?/kernel$|/(input|output|id_path)/kernel$", P(None, None, None, "fsdp")),  # dVAE [k, k, i, o]
    (r"patch_embed/kernel$", P(None, None, None, "fsdp")),  # [p, p, 3, d]
    (r".*", P()),
)


def make_mesh(sizes: Mapping[str, int], devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices.

    Args:
      sizes: devices along `data`, `fsdp`, `tensor`; one of them may be -1: what is left.
      devices: instead of all.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = devices or jax.devices()
    shape = [sizes[axis] for axis in AXES]
    if shape.count(-1) == 1:
        known = math.prod(size for size in shape if size != -1)
        shape[shape.index(-1)] = len(devices) // max(known, 1)
    if min(shape) < 1 or math.prod(shape) != len(devices):
        asked = ", ".join(f"{axis}={sizes[axis]}" for axis in AXES)
        raise UserError(
            f"mesh ({asked}) does not fit {len(devices)} device(s); the sizes must multiply to that number, "
            "and one of them may be -1"
        )
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def shardings(mesh: Mesh, tree: Any) -> Any:
    """The sharding of every leaf of a tree of arrays or shapes, by the rules of `PARTITION`.

    An axis of the array that its mesh axis does not divide stays whole.
    """

    def sharding(name: str, leaf: Any) -> NamedSharding:
        spec = choose(PARTITION, name)
        if len(spec) != len(leaf.shape):
            return NamedSharding(mesh, P())
        fits = [axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(spec, leaf.shape)]
        return NamedSharding(mesh, P(*fits))

    return map_names(sharding, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data` and `fsdp`."""
    return NamedSharding(mesh, BATCH)


def whole(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """
    Raises:
      UserError: the rows of a (micro-)batch cannot be dealt evenly to the devices.
    """
    rows, ways = batch_size // accumulate, mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % ways:
        micro = f" / accumulate={accumulate}" if accumulate > 1 else ""
        raise UserError(
            f"batch_size={batch_size}{micro} is not divisible by the {ways} devices that share a batch "
            f"(data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']}); choose a multiple of {ways * accumulate}"
        )


def to_devices(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows of a batch, as global arrays."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def describe(params: Any, mesh: Mesh) -> str:
    """A table of all parameters: name, shape, dtype, sharding, bytes per device; and their totals."""
    rows, count, total = [], 0, 0

    def add(name: str, leaf: Any) -> None:
        nonlocal count, total
        spec = shardings(mesh, {"": leaf})[""] if leaf.sharding is None else leaf.sharding
        held = math.prod(spec.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        split = ",".join(str(axis) for axis in spec.spec) or "whole"
        rows.append((name, "x".join(map(str, leaf.shape)) or "1", str(leaf.dtype), split, f"{held:,}"))
        count, total = count + math.prod(leaf.shape), total + held

    map_names(add, params)
    header = ("parameter", "shape", "dtype", "split over", "bytes/device")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in [header, *rows]]
    return "\n".join([*lines, f"{count:,} parameters, {total:,} bytes on each device"])
