import json
import subprocess
import sys

import numpy as np
import pytest
from patience import PATIENCE_S

from beit_jax import benchmark
from beit_jax.data.block_mask_numpy import block_mask
from beit_jax.errors import UserError


def run(*arguments):
    command = [sys.executable, "-m", "beit_jax.benchmark", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def test_masks():
    done = run("masks", "--json", "--rounds", "3")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    print(f"{figures['graph']:.1f} us per mask, plain {figures['plain']:.1f}")
    assert (figures["batch"], figures["grid"]) == (256, [14, 14])
    assert figures["official_ratio"] > 1.5  # 2.5 to 3 on a quiet machine; times alone would measure how busy it is
    assert figures["ratio"] == pytest.approx(figures["plain"] / figures["graph"])
    assert figures["official_ratio"] == pytest.approx(figures["official"] / figures["graph"])


@pytest.mark.slow
def test_masks_for_people():
    done = run("masks", "--batch", "16", "--rounds", "1", "--grid", "8", "10")
    assert done.returncode == 0, done.stderr
    assert "8x10 grid" in done.stdout and "us per mask" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["masks", "--batch", "0"], "--batch: found '0', expected a whole number of at least 1"),
        (["masks", "--grid", "14", "x"], "--grid: found 'x', expected a whole number"),
        (["masks", "--nothing"], "there is no flag --nothing"),
        (["nothing"], "found the benchmark 'nothing', expected masks, input, table, or --config=FILE"),
        (["--json"], "--config is missing; expected a file"),
        (
            ["--config=configs/pretrain.py", "--devices=8"],
            "--devices simulates devices, which only --compile_only does",
        ),
        (["--config=configs/pretrain.py", "--compile_only", "--steps=8"], "--compile_only runs no step"),
        (["--config=configs/pretrain.py", "--vs=nothing"], "nothing"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        benchmark.main(arguments)
    assert "\n" not in str(error.value)


def test_a_mistake_ends_with_status_two():
    done = run("nothing")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")


def test_help_does_not_wait_for_tensorflow():
    done = run("--help")
    assert done.returncode == 0
    assert "python -m beit_jax.benchmark masks" in done.stdout
    loaded = "import sys, beit_jax.benchmark; print({'jax', 'tensorflow'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "set()\n"


def test_plain_masks_follow_the_rule():
    uniform = np.random.default_rng(0).random
    counts = np.array([block_mask(uniform, (14, 14), 75, 16).sum() for _ in range(4000)])
    assert counts.max() == 75
    assert abs(counts.mean() - 74.475) < 0.07
