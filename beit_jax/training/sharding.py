"""The mesh of devices, and how arrays are split over it.

Batches are split over the axes `data` and `fsdp`, parameters and optimizer states over `fsdp` and `tensor`, by the
rules below. Axis types are Auto: XLA propagates the shardings and inserts the collectives.
"""

import collections
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from beit_jax.errors import UserError
from beit_jax.training.params import choose, map_names

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))

# The first axis of `blocks/` parameters is the layer. Heads, hidden units and the vocabulary are split over `tensor`.
# Arrays that no rule but the last matches, such as biases and norms, are replicated.
PARTITION = (
    (r"blocks/attn/qkv/kernel$", P(None, "fsdp", "tensor")),  # [l, d, (h 3 c)]
    (r"blocks/attn/[qv]_bias$", P(None, "tensor", None)),  # [l, h, hd]
    (r"blocks/attn/proj/kernel$", P(None, "tensor", "fsdp")),  # [l, (h c), d]
    (r"blocks/mlp/fc1/kernel$", P(None, "fsdp", "tensor")),  # [l, d, m]
    (r"blocks/mlp/fc1/bias$", P(None, "tensor")),
    (r"blocks/mlp/fc2/kernel$", P(None, "tensor", "fsdp")),  # [l, m, d]
    (r"(^|/|_)(lm_)?head/kernel$", P("fsdp", "tensor")),  # [d, v]
    (r"lm_head/bias$", P("tensor")),
    (r"(^|/)heads/kernel$", P(None, "fsdp", "tensor")),  # [l, f, c], of probes
    (r"/(conv(_\d)?|up_\d|input|output|id_path)/kernel$", P(None, None, None, "fsdp")),  # [k, k, i, o]
    (r"patch_embed/kernel$", P(None, None, None, "fsdp")),  # [p, p, 3, d]
    (r".*", P()),
)


def make_mesh(sizes: Mapping[str, int], devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices.

    Several slices, with a slower network between them, share `data` alone: its first part is the first slice, and so
    on, so that what `fsdp` and `tensor` exchange stays within a slice.

    Args:
      sizes: devices along `data`, `fsdp`, `tensor`; one of them may be -1: what is left. `slices`, 1 if absent, divides
        `data`; -1: as many as the devices say.
      devices: instead of all.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or the slices are not those of the devices.
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
    arranged = _arranged(shape, sizes.get("slices", 1), devices)
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arranged(shape: list[int], slices: int, devices: list[jax.Device]) -> np.ndarray:
    """The devices `[data, fsdp, tensor]`; `slices` may be -1."""
    in_slices = collections.Counter(getattr(device, "slice_index", 0) for device in devices)
    reported, processes = len(in_slices), len({device.process_index for device in devices})
    if slices == -1:
        slices = reported
    # Hosts of GPUs report themselves as slices: there, a mesh that ignores them is slower but works.
    if 1 < reported != slices and (slices > 1 or devices[0].platform == "tpu"):
        raise UserError(f"mesh.slices={slices}, but the devices are in {reported} slices; set mesh.slices={reported}")
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if reported == 1 and processes not in (1, slices):
        raise UserError(
            f"mesh.slices={slices}, but these devices report no slices and belong to {processes} processes; "
            f"expected 1, or {processes}: then each process is a slice"
        )
    if len(set(in_slices.values())) > 1:
        fewest, most = min(in_slices.values()), max(in_slices.values())
        raise UserError(f"found slices of {fewest} to {most} devices; expected as many in each")
    data, fsdp, tensor = shape
    if data % slices:
        raise UserError(
            f"mesh.slices={slices} does not divide data={data} of {len(devices)} devices; expected fsdp={fsdp} x "
            f"tensor={tensor} to fit into a slice, so that what they exchange does not leave it"
        )
    if reported == processes == 1:  # simulated devices, which are all alike
        return np.asarray(devices).reshape(shape)
    inner, outer = (data // slices, fsdp, tensor), (slices, 1, 1)
    return mesh_utils.create_hybrid_device_mesh(
        inner, outer, devices, process_is_granule=reported == 1, allow_split_physical_axes=True
    )


def shardings(mesh: Mesh, tree: Any) -> Any:
    """The sharding of every leaf of a tree of arrays or shapes, by the rules of `PARTITION`.

    An axis of the array that its mesh axis does not divide is not split.

    Raises:
      UserError: a name matches a rule for arrays of another rank.
    """

    def sharding(name: str, leaf: Any) -> NamedSharding:
        spec, shape = choose(PARTITION, name), tuple(leaf.shape)
        if spec and len(spec) != len(shape):
            raise UserError(
                f"found {name} of shape {shape}, expected {len(spec)} axes, since names that end so are sharded as "
                f"{spec}: give the parameter another name, or change the rule in beit_jax/training/sharding.py"
            )
        split = [axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(spec, shape)]
        return NamedSharding(mesh, P(*split))

    return map_names(sharding, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis, that of the examples, is split over `data` and `fsdp`."""
    return NamedSharding(mesh, BATCH)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds a copy of the array."""
    return NamedSharding(mesh, P())


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """
    Raises:
      UserError: the devices cannot have the same number of examples of a (micro-)batch, or not of their own process.
    """
    groups = mesh.devices.reshape(-1, mesh.shape["tensor"])
    if any(device.process_index != group[0].process_index for group in groups for device in group):
        raise UserError(
            f"tensor={mesh.shape['tensor']} spreads an example over several processes, each of which reads examples of "
            "its own; choose one that stays within a process, and fsdp for the rest"
        )
    examples, shards = batch_size // accumulate, batch_shards(mesh)
    if examples % shards:
        micro = f" / accumulate={accumulate}" if accumulate > 1 else ""
        raise UserError(
            f"batch_size={batch_size}{micro} is not divisible by the {shards} devices that share a batch "
            f"(data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']}); choose a multiple of {shards * accumulate}"
        )


def to_devices(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The global arrays of a batch, of which this process has the examples `batch`."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, values) for name, values in batch.items()}
