"""Memory and collectives of steps that are compiled for simulated devices."""

import functools
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from patience import PATIENCE_S
from PIL import Image

from beit_jax.benchmarks import collectives, compiled, program
from beit_jax.errors import UserError
from beit_jax.models import variants
from beit_jax.training import memory, sharding

SLOW = [pytest.param(task, marks=pytest.mark.slow) for task in ("classify", "segment")]
HLO = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: (s32[], bf16[16,4])) -> (s32[], bf16[16,4]) {
  %gather = bf16[16,4]{1,0} all-gather(%shard), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %inside = (s32[], bf16[16,4]) while(%t), condition=%c2, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
  %both = (f32[8]{0}, f32[]) all-reduce(%x, %y), replica_groups={{0,2},{1,3}}, to_apply=%add
}

%c2 (p: (s32[], bf16[16,4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%condition (p: (s32[], f32[8])) -> pred[] {
  ROOT %less.1 = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %part = f32[2]{0} reduce-scatter(%z), replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add
  %swap = u8[3,5]{1,0} collective-permute(%q), source_target_pairs={{0,1},{1,0}}
  %axes = f32[8]{0} all-gather(%x), replica_groups=mesh['a'=2,'b'=8], device_ids=([8,2]T(1,0)) {'a','b':(2)4}
  ROOT %exchange = (pred[4]{0}, pred[4]{0}) all-to-all(%r, %s), replica_groups={{0,1},{2,3}}
}
"""


def test_counts_and_bytes_by_hand():
    assert collectives.count_collectives(HLO, devices=8) == {
        "all-gather": {"count": 16, "bytes": 15 * 16 * 4 * 2 * 3 // 4 + 32 * 7 // 8},
        "reduce-scatter": {"count": 1, "bytes": 2 * 4 * 7},
        "all-reduce": {"count": 5, "bytes": 5 * 36 * 2 * 1 // 2},
        "all-to-all": {"count": 1, "bytes": 4},
        "collective-permute": {"count": 1, "bytes": 15},
    }


def test_groups_in_an_unknown_notation_are_refused():
    with pytest.raises(ValueError, match="unknown notation of groups"):
        collectives.count_collectives(HLO.replace("[1,8]<=[8]", "everyone"), devices=8)


def test_loops_of_a_real_program():
    mesh = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
    replicated, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(None, "fsdp", None))

    def layers(x, kernels):
        def layer(x, kernel):
            return jnp.tanh(x @ jax.lax.with_sharding_constraint(kernel, replicated)), None

        return jax.lax.scan(layer, x, kernels)[0]

    x, kernels = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 64), (6, 64, 64)))
    text = (
        jax.jit(layers, in_shardings=(replicated, split), out_shardings=replicated)
        .lower(x, kernels)
        .compile()
        .as_text()
    )
    found = collectives.count_collectives(text, devices=8)["all-gather"]
    assert found["count"] in (1, 6)  # all layers before the loop, or one at a time in it
    assert found["bytes"] == 6 * 64 * 64 * 4 * 3 // 4


# In a process of its own, which reads XLA's warnings and takes no compiled program from a cache.
ALONE = """
import json, sys, jax, tiny
from jax.sharding import NamedSharding, PartitionSpec as P
from beit_jax.benchmarks import compiled, program
from beit_jax.training import sharding

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_compilation_cache", False)
found = {}
for task in ("tokenizer", "tokenizer on tensor", "pretrain", "pretrain on tensor", "classify", "probe", "segment"):
    config = tiny.config(task.split()[0])
    config.mesh.update(dict(data=2, fsdp=2, tensor=2) if "tensor" in task else dict(data=2, fsdp=4))
    config = program.complete_without_data(config, "", "bfloat16")
    found[task] = compiled.measure_compiled_step(config)["rematerializations"]
mesh = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
rows, columns = NamedSharding(mesh, P("data")), NamedSharding(mesh, P(None, "fsdp"))
with compiled.compiler_log() as log:
    jax.jit(lambda x: x, in_shardings=rows, out_shardings=columns).lower(jax.numpy.ones((16, 16))).compile()
found["provoked"] = compiled.count_rematerializations(log)
config = tiny.config("pretrain")
config.mesh.update(data=1, fsdp=8)
config = program.complete_without_data(config, "", "bfloat16")
lowered = program.experiment_without_data(config).trace_step().lower()
lowered.compile({"xla_dump_to": sys.argv[1], "xla_dump_hlo_pass_re": "spmd.*"})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def alone(repository, tmp_path_factory):
    """Rematerializations by task; and the program of a step as XLA partitions it, before it is changed for the CPU."""
    folder = tmp_path_factory.mktemp("dump")
    settings = {"TF_CPP_MIN_LOG_LEVEL": "1", "PYTHONPATH": f"{repository / 'tests'}:{repository}"}
    command = [sys.executable, "-c", ALONE, str(folder)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    (text,) = (path.read_text() for path in folder.glob("*jit_step*after_spmd-partitioning*"))
    return json.loads(done.stdout.splitlines()[-1]), text


@pytest.mark.slow
def test_nothing_is_rematerialized(alone):
    """And the warning is counted where there is one."""
    found = dict(alone[0])
    assert found.pop("provoked") == 1
    assert len(found) == 7 and not any(found.values()), found


@pytest.mark.slow
def test_parameters_are_cast_before_they_are_gathered(alone):
    """To bfloat16, half the bytes; XLA for CPU then makes float32 of it, in the programs that are measured here."""
    gathered = re.findall(r" = (\w+)\[[\d,]*\]\S* all-gather\(.*?op_name=\"([^\"]*)", alone[1])
    blocks = [kind for kind, name in gathered if "blocks" in name]
    assert len(blocks) >= 4 and set(blocks) == {"bf16"}, gathered


@functools.cache
def measured(task, **mesh):
    config = tiny.config(task)
    config.mesh.update(mesh)
    return compiled.measure_compiled_step(program.complete_without_data(config, "", "bfloat16"))


@pytest.mark.parametrize("task", ["pretrain", "probe", *SLOW, pytest.param("tokenizer", marks=pytest.mark.slow)])
def test_every_task(task):
    found = measured(task, data=1, fsdp=8)
    sizes = found["bytes_per_device"]
    assert sizes["optimizer_state"] == pytest.approx(2 * sizes["parameters"], rel=0.01)  # two moments, two counters
    # Parts of the tokenizer that the step does not read are no arguments of it.
    assert found["memory"]["arguments"] >= sum(sizes.values()) - sizes["frozen_parameters"]


@pytest.mark.slow
def test_sharding_divides_the_state_and_moves_parameters():
    data, fsdp = measured("pretrain", data=8), measured("pretrain", data=1, fsdp=8)
    assert data["replicated_fraction"] == 1.0 and fsdp["replicated_fraction"] < 0.2
    assert data["bytes_per_device"]["parameters"] == 4 * data["parameters"]
    expected = fsdp["replicated_fraction"] + (1 - fsdp["replicated_fraction"]) / 8
    assert fsdp["bytes_per_device"]["parameters"] == pytest.approx(4 * data["parameters"] * expected)
    assert data["collectives"]["all-gather"]["bytes"] == 0 < fsdp["collectives"]["all-gather"]["bytes"]
    # Every gradient is summed over the devices, in float32; that of LayerScale comes from the sum of its kernel's.
    variant, _ = variants.parse(tiny.config("pretrain").model.variant)
    summed = data["parameters"] - 2 * variant.depth * variant.width
    assert data["collectives"]["all-reduce"]["bytes"] >= 2 * 4 * summed * 7 // 8


@pytest.mark.parametrize("task", ["pretrain", pytest.param("tokenizer", marks=pytest.mark.slow), *SLOW])
def test_only_parameters_and_their_gradients_move(task):
    """Gradients of attention biases are added up in their tables first; activations stay where they are."""
    data, fsdp = measured(task, data=8), measured(task, data=1, fsdp=8)
    once = 4 * data["parameters"] * 7 // 8
    for found in (data, fsdp):
        assert 1.99 * once < found["collectives"]["all-reduce"]["bytes"] < 2.02 * once
    assert fsdp["collectives"]["all-gather"]["bytes"] < 2 * once  # forward and backward
    assert fsdp["collectives"]["all-to-all"]["bytes"] < 0.01 * once


def test_dtype_classes_and_untrained_parts_are_filled_in():
    config = tiny.config("probe")
    config.model.num_classes, config.encoder.init_from = 0, ""
    made = program.complete_without_data(config, "", "bfloat16")
    assert (made.model.num_classes, made.model.dtype, made.encoder.init_from) == (1000, "bfloat16", "random")
    assert config.model.num_classes == 0  # a copy
    config.model.dtype = "float32"
    assert program.complete_without_data(config, "", "bfloat16").model.dtype == "float32"


@pytest.mark.slow
def test_the_command(repository):
    config = f"{repository}/configs/quickstart.py:runlocal,seeds=1"
    arguments = ["--stage=pretrain", "--compile_only", "--devices=4", "--config.pretrain.mesh.fsdp=2", "--json"]
    command = [sys.executable, "-m", "beit_jax.benchmark", f"--config={config}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    found = json.loads(last)
    assert (found["devices"], found["mesh"]) == (4, {"data": 2, "fsdp": 2, "tensor": 1})
    assert f"{found['parameters']:,} parameters" in done.stdout
    assert any(line.endswith(f"peak {found['memory']['peak'] / 2**20:,.1f}") for line in lines)


@pytest.mark.slow
def test_the_command_on_a_folder(repository, tmp_path):
    """Whose config looks for the devices: it finds those that are simulated."""
    for number in range(40):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    config = f"{repository}/configs/pretrain.py:data=folder:{tmp_path}"
    command = [sys.executable, "-m", "beit_jax.benchmark", f"--config={config}", "--compile_only", "--devices=2"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["devices"] == 2


def test_a_stage_must_exist():
    with pytest.raises(UserError, match="found --stage=pretrain, expected no --stage"):
        program.complete_without_data(tiny.config("pretrain"), "pretrain", "auto")


def test_bytes_of_shapes():
    mesh = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
    leaf = jax.ShapeDtypeStruct((8, 3), np.dtype("bfloat16"), sharding=NamedSharding(mesh, P("fsdp")))
    assert (memory.total_bytes(leaf), memory.bytes_per_device({"a": leaf, "b": None})) == (48, 12)
