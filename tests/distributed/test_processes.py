"""Two processes of four devices over loopback, beside one process of eight; stopped, and continued on other devices."""

import shutil

import numpy as np
import pytest
from runs import CONFIG, SHORT, Run, numbers

from beit_jax import tokenize_dataset

pytestmark = [pytest.mark.usefixtures("in_the_checkout"), pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, repository):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        yield tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def straight(folder):
    """Two processes, never stopped."""
    Run(folder / "straight", processes=2, devices=4).finish()
    return folder / "straight"


@pytest.fixture(scope="module")
def alone(folder):
    """One process, never stopped."""
    Run(folder / "alone").finish()
    return folder / "alone"


@pytest.fixture(scope="module")
def stopped(alone, folder):
    """Two processes, which continue what one has saved, told to stop, and started again; the run that was stopped."""
    workdir = folder / "stopped"
    shutil.copytree(alone, workdir)
    shutil.rmtree(workdir / "checkpoints" / "24")
    (workdir / "result.json").unlink()
    run = Run(workdir, processes=2, devices=4).wait_for(" 15/24 ")
    assert run.stop(index=1) == [0, 0], run.told()
    shutil.copytree(workdir, folder / "left")
    Run(workdir, processes=2, devices=4).finish()
    return workdir, run


def close(found, expected):
    """The same lines, numbers to 1e-5."""
    assert [sorted(line) for line in found] == [sorted(line) for line in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose([one[name] for name in sorted(one)], [other[name] for name in sorted(one)], 1e-5)


def test_two_processes_learn_what_one_learns(straight, alone):
    assert [line["step"] for line in numbers(alone)] == [5, 10, 12, 12, 15, 20, 24, 24]
    close(numbers(straight), numbers(alone))
    written = sorted(path.name for path in straight.iterdir())
    assert written == sorted(path.name for path in alone.iterdir())


def test_two_processes_learn_from_stored_tokens_what_one_learns(folder, alone):
    tokenize_dataset.main([f"--config={CONFIG}", f"--out={folder}/tokens", *SHORT])
    Run(folder / "given", processes=2, devices=4, arguments=[*SHORT, f"--config.tokens={folder}/tokens"]).finish()
    close(numbers(folder / "given"), numbers(alone))


def test_saved_by_one_process_continued_by_two_that_agree_on_where_to_stop(stopped, alone):
    workdir, run = stopped
    assert "continuing from step 12; 24 steps on 8" in run.output[0]
    saved = [line for line in run.output[0].splitlines() if "is saved; run the same command again" in line]
    assert len(saved) == 1 and 15 <= int(saved[0].split(" at step ")[1].split(",")[0]) < 24
    assert "is saved" not in run.output[1]
    close(numbers(workdir), numbers(alone))


def test_saved_by_two_processes_continued_by_one_on_fewer_devices(stopped, folder, alone):
    left = folder / "left"
    newest = max(int(path.name) for path in (left / "checkpoints").iterdir())
    run = Run(left, devices=4).wait_for("compiled in")
    assert run.stop() == [0], run.told()
    assert f"continuing from step {newest}; 24 steps on 4" in run.output[0]
    assert "24 steps on 2" in Run(left, devices=2).finish().output[0]
    close(numbers(left), numbers(alone))


def test_told_to_stop_before_there_is_anything_to_save(folder):
    run = Run(folder / "early", processes=2, devices=4).wait_for("starting from scratch")
    assert run.stop(index=1) == [0, 0], run.told()
    assert "before there was anything to save; run the same command again" in run.output[0]
