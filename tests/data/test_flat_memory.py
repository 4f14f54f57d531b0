"""That the input does not gather memory; over thousands of steps, `tests/reliability/memory_test.py` measures it."""

import gc
from pathlib import Path

import pytest

from beit_jax.data import pipeline

STEPS = 100


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux' /proc")
def test_no_batch_is_held(data_config, sharded_dir):
    config = data_config(data_dir=sharded_dir, shuffle_buffer=1000, ops="decode|resize(96)|normalize")
    stream = pipeline.make_train(config, seed=0, batch_size=32)
    sizes = []

    def after_steps() -> float:
        for _ in range(STEPS):
            sizes.append(next(stream)["image"].nbytes / 2**20)
        gc.collect()
        return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024

    after_steps()
    before, after = after_steps(), after_steps()
    assert after - before < 0.06 * sum(sizes[:STEPS])  # of 338 MiB that were made in between
