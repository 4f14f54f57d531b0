"""Meshes of one and of several slices, of real and of synthetic devices; and rules of sharding."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from beit_jax.errors import UserError
from beit_jax.training import sharding
from beit_jax.training.params import flatten


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as a mesh asks for."""

    id: int
    process_index: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v4"
    core_on_chip: int = 0


@dataclasses.dataclass(frozen=True)
class PlainDevice:
    """A device that reports no slice."""

    id: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


def tpu_slices(slices, side=4):
    """Slices of side x side chips, four to a process, in an order that mixes the slices."""
    positions = itertools.product(range(side), range(side), range(slices))
    devices = []
    for number, (x, y, index) in enumerate(positions):
        host = index * side * side // 4 + (x // 2) * (side // 2) + y // 2
        devices.append(Device(id=number, process_index=host, slice_index=index, coords=(x, y, 0)))
    return devices


def sizes(data=-1, fsdp=1, tensor=1, slices=1):
    return dict(data=data, fsdp=fsdp, tensor=tensor, slices=slices)


def slice_of(mesh):
    """`[data, fsdp, tensor]`."""
    return np.vectorize(lambda device: device.slice_index)(mesh.devices)


@pytest.mark.parametrize("asked", [3, -1])
@pytest.mark.parametrize(("fsdp", "tensor"), [(1, 1), (4, 1), (16, 1), (4, 4), (8, 2)])
def test_slices_of_tpus_share_data_alone(asked, fsdp, tensor):
    devices = tpu_slices(3)
    mesh = sharding.make_mesh(sizes(fsdp=fsdp, tensor=tensor, slices=asked), devices)
    assert dict(mesh.shape) == {"data": 48 // (fsdp * tensor), "fsdp": fsdp, "tensor": tensor}
    assert {device.id for device in mesh.devices.flat} == set(range(48))
    found = slice_of(mesh)
    per_slice = 16 // (fsdp * tensor)
    np.testing.assert_array_equal(found[:, 0, 0], np.repeat([0, 1, 2], per_slice))
    np.testing.assert_array_equal(found, np.broadcast_to(found[:, :1, :1], found.shape))


def test_neighbours_of_a_tensor_group_are_neighbours_on_the_torus():
    mesh = sharding.make_mesh(sizes(fsdp=4, tensor=4, slices=2), tpu_slices(2))
    for group in mesh.devices.reshape(-1, 4):
        rows, columns = ({device.coords[axis] for device in group} for axis in (0, 1))
        assert min(len(rows), len(columns)) == 1 and max(len(rows), len(columns)) == 4


def test_hosts_of_gpus_are_slices_where_asked_for():
    """And where not, `fsdp` may reach over them."""
    devices = [
        Device(id=i, process_index=i // 4, slice_index=i // 4, coords=(i, 0, 0), platform="gpu", device_kind="H200")
        for i in range(8)
    ]
    mixed = devices[::2] + devices[1::2]
    np.testing.assert_array_equal(
        slice_of(sharding.make_mesh(sizes(fsdp=4, slices=-1), mixed))[:, :, 0], [[0] * 4, [1] * 4]
    )
    assert slice_of(sharding.make_mesh(sizes(data=1, fsdp=8), mixed)).shape == (1, 8, 1)


def test_processes_are_slices_of_devices_that_report_none():
    devices = [PlainDevice(id=i, process_index=i % 2) for i in range(8)]
    mesh = sharding.make_mesh(sizes(fsdp=2, slices=2), devices)
    found = np.vectorize(lambda device: device.process_index)(mesh.devices)
    np.testing.assert_array_equal(found[..., 0], [[0, 0], [0, 0], [1, 1], [1, 1]])


def test_devices_of_one_process_are_cut_in_order():
    mesh = sharding.make_mesh(sizes(fsdp=2, slices=2))
    np.testing.assert_array_equal(mesh.devices, np.array(jax.devices()).reshape(4, 2, 1))
    assert sharding.make_mesh(sizes(slices=-1)).shape["data"] == 8


@pytest.mark.parametrize(
    ("asked", "devices", "message"),
    [
        (sizes(), tpu_slices(2), "mesh.slices=1, but the devices are in 2 slices; set mesh.slices=2"),
        (sizes(slices=4), tpu_slices(2), "mesh.slices=4, but the devices are in 2 slices"),
        (
            sizes(data=1, fsdp=32, slices=2),
            tpu_slices(2),
            "slices=2 does not divide data=1 of 32 devices; expected fsdp=32 x tensor=1",
        ),
        (sizes(slices=-1), tpu_slices(2)[:-1], "slices of 15 to 16 devices; expected as many in each"),
        (sizes(slices=3), None, "mesh.slices=3 does not divide data=8"),
        (
            sizes(slices=2),
            [PlainDevice(id=i, process_index=i // 2) for i in range(8)],
            "belong to 4 processes; expected 1, or 4",
        ),
        (sizes(data=3), None, "mesh .data=3, fsdp=1, tensor=1. does not fit 8 device"),
    ],
)
def test_slices_that_do_not_fit(asked, devices, message):
    with pytest.raises(UserError, match=message):
        sharding.make_mesh(asked, devices)


def test_an_example_belongs_to_one_process():
    devices = [PlainDevice(id=i, process_index=i // 4) for i in range(8)]
    sharding.check_batch(sharding.make_mesh(sizes(tensor=4), devices), 8)
    with pytest.raises(UserError, match="tensor=8 spreads an example over several processes"):
        sharding.check_batch(sharding.make_mesh(sizes(tensor=8), devices), 8)


def test_parameters_are_split_where_the_mesh_divides_them():
    mesh = sharding.make_mesh(sizes(data=1, fsdp=4, tensor=2))
    shapes = {
        "encoder": {"blocks": {"mlp": {"fc1": {"kernel": (2, 8, 6), "bias": (2, 5)}}}, "norm": {"scale": (8,)}},
        "lm_head": {"kernel": (8, 11)},
    }
    tree = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32), shapes, is_leaf=lambda x: type(x) is tuple
    )
    found = {name: leaf.spec for name, leaf in flatten(sharding.shardings(mesh, {"mu": tree})).items()}
    assert found == {
        "mu/encoder/blocks/mlp/fc1/bias": PartitionSpec(None, None),
        "mu/encoder/blocks/mlp/fc1/kernel": PartitionSpec(None, "fsdp", "tensor"),
        "mu/encoder/norm/scale": PartitionSpec(),
        "mu/lm_head/kernel": PartitionSpec("fsdp", None),
    }


def test_a_rule_for_another_rank_is_an_error():
    mesh = sharding.make_mesh(sizes())
    tree = {"head": {"kernel": jax.ShapeDtypeStruct((3, 8, 5), np.float32)}}
    with pytest.raises(UserError, match=r"found head/kernel of shape \(3, 8, 5\), expected 2 axes"):
        sharding.shardings(mesh, tree)
