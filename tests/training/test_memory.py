"""What each device holds: the table, the compiler's plan, and the limit on what is replicated."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding

from beit_jax.errors import UserError
from beit_jax.training import memory, sharding
from beit_jax.training.initialize import with_shardings
from beit_jax.training.train_step import TrainState

MIB = 2**20


def synthetic_state(mesh, **shapes):
    """The train state, as shapes, of parameters of these names (`__` for `/`), and Adam's."""
    params = {name.replace("__", "/"): jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    state = jax.eval_shape(
        lambda params: TrainState(jnp.int32(0), params, optax.scale_by_adam().init(params), None), params
    )
    return with_shardings(state, mesh)


def mesh_of(data=1, fsdp=1, tensor=1):
    return sharding.make_mesh(dict(data=data, fsdp=fsdp, tensor=tensor), jax.devices()[: data * fsdp * tensor])


def test_table_and_totals_by_hand():
    mesh = mesh_of(fsdp=4, tensor=2)
    state = synthetic_state(mesh, head__kernel=(512, 256), norm__scale=(1024,))
    frozen = with_shardings({"tokenizer": {"conv": jax.ShapeDtypeStruct((256, 1024), jnp.bfloat16)}}, mesh)
    lines = [line.split() for line in memory.describe_parameters(state, frozen)]
    assert lines[1:3] == [
        ["head/kernel", "512x256", "float32", "fsdp,tensor", f"{512 * 256 * 4 // 8:,}"],
        ["norm/scale", "1024", "float32", "replicated", "4,096"],
    ]
    # 64 + 4 KiB; twice that, and the counter; 512 KiB.
    assert " ".join(lines[3]) == (
        "132,096 parameters; MiB on each device, state: parameters 0.1, optimizer state 0.1, frozen parameters 0.5"
    )
    assert memory.state_bytes_per_device(state, frozen) == {
        "parameters": 68 * 1024,
        "optimizer_state": 2 * 68 * 1024 + 4,
        "averaged_parameters": 0,
        "frozen_parameters": MIB // 2,
    }


def test_plan_of_a_step_that_donates_its_state():
    rows = NamedSharding(mesh_of(data=8), sharding.BATCH)
    state, batch = (jax.ShapeDtypeStruct((8, n), jnp.float32, sharding=rows) for n in (1024, 256))
    step = jax.jit(lambda x, y: (x + 1.0, y * 2.0), donate_argnums=0, out_shardings=rows)
    found = memory.compiled_bytes_per_device(step.trace(state, batch).lower().compile())
    assert (found["arguments"], found["aliased"]) == (5 * 1024, 4 * 1024)
    assert 1024 <= found["outputs"] < 1024 + 64  # and the pointers of the pair
    assert found["peak"] == found["arguments"] + found["outputs"] + found["temporaries"]


def test_sizes_of_nothing_are_left_out():
    line = memory.format_sizes("state", {"optimizer_state": 1536 * 2**20, "batch": 0, "peak": MIB // 2})
    assert line == "MiB on each device, state: optimizer state 1,536.0, peak 0.5"


def check(mesh, limit=0.1, **shapes):
    memory.check_replicated(mesh, synthetic_state(mesh, **shapes), {}, limit)


def test_large_arrays_without_a_rule_are_refused():
    shapes = dict(head__kernel=(1024, 1024), new__kernel=(1024, 512), new__bias=(1024,))
    message = (
        r"33.3% of the bytes .* state/params/new/kernel, 2 MiB, .*expected at most 10%; "
        r"choose mesh.fsdp \(now 2\) and mesh.tensor \(now 1\) to divide the axes of these arrays, or give them a rule"
    )
    with pytest.raises(UserError, match=message):
        check(mesh_of(data=2, fsdp=2), **shapes)
    check(mesh_of(data=2, fsdp=2), limit=0.34, **shapes)
    check(mesh_of(data=4), **shapes)  # everything is replicated on purpose


def test_small_arrays_do_not_count():
    check(mesh_of(fsdp=2), new__kernel=(512, 256), new__bias=(256,))


def test_axes_that_are_not_divided_are_refused():
    kernels = dict(blocks__attn__qkv__kernel=(2, 768, 3 * 764), blocks__mlp__fc1__kernel=(2, 768, 3072))
    check(mesh_of(tensor=4), **kernels)
    with pytest.raises(UserError, match=r"qkv/kernel, 13 MiB.*tensor .now 8."):
        check(mesh_of(tensor=8), **kernels)


def test_what_tensor_replicates_by_rule_passes():
    check(mesh_of(data=4, tensor=2), block__conv__kernel=(3, 3, 256, 256))
    with pytest.raises(UserError, match=r"100.0% .*/block/conv/kernel, 2 MiB"):
        check(mesh_of(fsdp=8), block__conv__kernel=(3, 3, 256, 255))
