"""Two processes of four devices over loopback, beside one process of eight; stopped, and continued on other devices."""

import json
import shutil

import numpy as np
import pytest
from runs import Run, numbers

pytestmark = pytest.mark.usefixtures("in_the_checkout")


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
def stopped(folder):
    """Two processes: told to stop while they compile, in training, and about an evaluation; each time one of them."""
    workdir, runs = folder / "stopped", []
    for moment, process in (("starting from scratch", 1), (" 3/12 ", 0), (" 6/12 ", 1)):
        run = Run(workdir, processes=2, devices=4).wait_for(moment)
        assert run.stop(process) == [0, 0], run.told()
        runs.append(run)
        if process == 0:
            shutil.copytree(workdir, folder / "left")
    Run(workdir, processes=2, devices=4).finish()
    return workdir, runs


def close(found, expected):
    """The same lines, numbers to 1e-5."""
    assert [sorted(line) for line in found] == [sorted(line) for line in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose([one[name] for name in sorted(one)], [other[name] for name in sorted(one)], 1e-5)


def test_two_processes_learn_what_one_learns(straight, alone):
    assert [line["step"] for line in numbers(alone)] == [3, 6, 6, 9, 12, 12]
    close(numbers(straight), numbers(alone))
    written = sorted(path.name for path in straight.iterdir())
    assert written == sorted(path.name for path in alone.iterdir())


def test_told_to_stop_they_agree_and_lose_nothing(stopped, straight):
    workdir, runs = stopped
    assert "before there was anything to save; run the same command again" in runs[0].output[0]
    for run, earliest in zip(runs[1:], (3, 6)):
        saved = [line for line in run.output[0].splitlines() if "is saved; run the same command again" in line]
        assert len(saved) == 1 and earliest <= int(saved[0].split(" at step ")[1].split(",")[0]) < 12
        assert "is saved" not in run.output[1]
    assert numbers(workdir) == numbers(straight)
    assert json.loads((workdir / "result.json").read_text()) == json.loads((straight / "result.json").read_text())


def test_saved_by_two_processes_continued_by_one_on_fewer_devices(stopped, folder, straight):
    left = folder / "left"
    saved = [int(path.name) for path in (left / "checkpoints").iterdir()]
    run = Run(left, devices=4).wait_for(" 6/12 ")
    assert f"continuing from step {saved[0]}; 12 steps on 4" in run.output[0]
    assert run.stop() == [0], run.told()
    assert "12 steps on 2" in Run(left, devices=2).finish().output[0]
    close(numbers(left), numbers(straight))


def test_saved_by_one_process_continued_by_two(alone, folder, straight):
    shutil.copytree(alone, folder / "grown")
    shutil.rmtree(folder / "grown" / "checkpoints" / "12")
    (folder / "grown" / "result.json").unlink()
    run = Run(folder / "grown", processes=2, devices=4).finish()
    assert "continuing from step 6; 12 steps on 8" in run.output[0]
    close(numbers(folder / "grown"), numbers(straight))
