import json
import subprocess
import sys

import numpy as np
import pytest

from beit_jax import benchmark


def run(*arguments):
    command = [sys.executable, "-m", "beit_jax.benchmark", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_masks():
    done = run("masks", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    print(f"{figures['graph']:.1f} us per mask, plain {figures['plain']:.1f}")
    assert figures["graph"] < 60
    assert figures["ratio"] == pytest.approx(figures["plain"] / figures["graph"])


def test_masks_for_people():
    done = run("masks", "--batch", "16", "--grid", "8", "10")
    assert done.returncode == 0, done.stderr
    assert "8x10 grid" in done.stdout and "us per mask" in done.stdout


def test_mistakes():
    assert "at least 1" in run("masks", "--batch", "0").stderr
    assert run("nothing").returncode == 2


def test_plain_masks_follow_the_rule():
    uniform = np.random.default_rng(0).random
    counts = np.array([benchmark.plain_mask(uniform, (14, 14), 75, 16).sum() for _ in range(4000)])
    assert counts.max() == 75
    assert abs(counts.mean() - 74.475) < 0.07
