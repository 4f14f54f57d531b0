"""Programs compiled for chips that are not there, where the compilers are installed."""

import json
import subprocess
import sys

import pytest

from beit_jax.errors import UserError
from beit_jax.extras import check_installed

CALIBRATION = """
import sys
from beit_jax.benchmarks import chips, estimate, hlo
chips.prepare_to_compile(sys.argv[1])
import jax, jax.numpy as jnp, numpy as np
device = chips.absent_devices(sys.argv[1])[0]
mesh = jax.sharding.Mesh(np.array([device]), ("x",))
side = jax.ShapeDtypeStruct(
    (8192, 8192), jnp.bfloat16, sharding=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
)
compiled = jax.jit(jnp.matmul).lower(side, side).compile()
chip = chips.chip_of(device.device_kind)
seconds = sum(kernel.seconds for kernel in estimate.kernels(hlo.Program(compiled.as_text()), chip))
print(2 * 8192**3 / seconds / chip.peak)
"""


def needs(library):
    reason = ""
    try:
        check_installed(library)
    except UserError as error:
        reason = str(error)
    return pytest.mark.skipif(bool(reason), reason=reason)


TPU, GPU = needs("libtpu"), needs("jax_plugins.xla_cuda13")
NARROW = ("--config=configs/pretrain.py:variant=128x2x2/16", "--tokens_given", "--compile_only")


def benchmark(repository, *arguments):
    command = [sys.executable, "-m", "beit_jax.benchmark", *arguments]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True)


@TPU
@pytest.mark.parametrize(("chip", "share"), [("v5e:2x2", 0.88), ("v5p:2x2x1", 0.90), ("v6e:2x2", 0.70)])
def test_the_estimate_of_a_large_product(repository, chip, share):
    """By which cycles become seconds; another libtpu may count in another way, and must not do so unseen."""
    command = [sys.executable, "-c", CALIBRATION, chip]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    ("chip", "devices", "attention"),
    [pytest.param("v5e:2x2", 4, "pallas", marks=TPU), pytest.param("h200", 1, "cudnn", marks=GPU)],
)
def test_one_object_of_figures(repository, chip, devices, attention):
    done = benchmark(repository, *NARROW, "--config.batch_size=32", f"--chip={chip}", "--json")
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    figures = json.loads(last)
    assert (figures["chip"], figures["devices"], figures["fits"]) == (chip.partition(":")[0], devices, True)
    assert figures["choices"] == {"unroll": 2, "remat": "none", "attention": attention}
    assert 0.01 < figures["share_of_peak"] < 1 and figures["compile_seconds"] > 0
    assert 2**20 < figures["peak_bytes"] < 2**30
    assert sum(milliseconds for _, _, milliseconds in figures["parts"]) == pytest.approx(figures["step_ms"])
    assert {direction for direction, _, _ in figures["parts"]} == {"forward", "backward", "update"}
    said = "estimated by XLA's cost model" if devices > 1 else "at least, by bytes and FLOPs of each kernel"
    assert any(said in line for line in lines)


@TPU
def test_what_does_not_fit_is_one_line_that_says_what_to_change(repository):
    done = benchmark(repository, *NARROW, "--config.batch_size=131072", "--chip=v5e:1x1")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert "batch_size=131072 on 1 device(s) needs" in message and "lower it" in message


@TPU
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--chip=v5e:3x5"], "found --chip=v5e:3x5"),
        (["--chip=v9z"], "expected one of h200"),
        (["--chip=v5e:2x2", "--config.batch_size=30"], "is not divisible by"),
    ],
)
def test_wrong_chips_and_batches(repository, arguments, said):
    done = benchmark(repository, *NARROW, *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert said in done.stderr.strip().splitlines()[-1]
