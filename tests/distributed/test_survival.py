"""One run: preempted, locked, on a full disk, with damaged checkpoints."""

import itertools
import json
import shutil
import subprocess
import sys
from collections import namedtuple

import jax
import pytest
from commands import command, refused
from runs import Run, numbers

from beit_jax import train
from beit_jax.runtime import lock, preemption

pytestmark = [pytest.mark.usefixtures("in_the_checkout"), pytest.mark.slow]
SETTINGS = ["--config.steps=8", "--config.log_every=2", "--config.save_every=2", "--config.keep=2"]
SETTINGS += ["--config.eval_every=3"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, repository):
    workdir = tmp_path_factory.mktemp("finished")
    with jax.numpy_dtype_promotion("standard"), pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        train.main(command("pretrain", workdir, *SETTINGS))
    return workdir


@pytest.fixture
def at_six(finished, tmp_path):
    """A copy of the run as it was after its checkpoint of step 6."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    (tmp_path / "result.json").unlink()
    return tmp_path


def steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def content(workdir, step):
    """The bytes of a checkpoint."""
    folder = workdir / "checkpoints" / str(step)
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_newest_are_kept(finished):
    assert steps(finished) == [6, 8]
    assert all((finished / "checkpoints" / str(step) / "checksums.json").exists() for step in (6, 8))
    assert not (finished / lock.FILE).exists()


def test_changed_bytes_are_noticed(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "result.json").unlink()
    file = max((tmp_path / "checkpoints" / "8" / "params").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"checkpoints/8 cannot be read \(params/.* has changed\); set aside"):
        train.main(command("pretrain", tmp_path, *SETTINGS))
    assert numbers(tmp_path) == numbers(finished)


def test_a_damaged_checkpoint_without_checksums(finished, tmp_path):
    """Its run was killed before they were written."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "result.json").unlink()
    (tmp_path / "checkpoints" / "8" / "checksums.json").unlink()
    for file in (tmp_path / "checkpoints" / "8" / "params").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:10])
    with pytest.warns(UserWarning, match=r"checkpoints/8 cannot be read \(params: .*\); set aside"):
        train.main(command("pretrain", tmp_path, *SETTINGS))
    assert numbers(tmp_path) == numbers(finished)


def test_a_workdir_in_use(finished):
    with lock.lock_workdir(finished):
        assert f"{finished} is in use by process" in refused(command("pretrain", finished, *SETTINGS))


def test_a_full_disk(at_six, finished, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 1000, 1000))
    before = content(at_six, 6)
    message = refused(command("pretrain", at_six, *SETTINGS))
    assert "the checkpoint of step 8 needs" in message and "MiB and" in message and "0.0 MiB left; free some" in message
    assert message.endswith("to continue from step 6, which is intact")
    assert steps(at_six) == [6] and content(at_six, 6) == before


def test_files_that_cannot_grow(at_six, finished):
    """The kernel refuses files of more than 100 kB: writing fails in the background, as on a full disk."""

    before = content(at_six, 6)
    arguments = [sys.executable, "-m", "beit_jax.train", *command("pretrain", at_six, *SETTINGS)]
    limited = ["bash", "-c", 'ulimit -f 98 && exec "$@"', "limited", *arguments]
    done = subprocess.run(limited, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "a checkpoint could not be written to" in errors[0] and "File too large" in errors[0]
    assert errors[0].endswith("to continue from step 6, which is intact"), errors
    assert content(at_six, 6) == before
    train.main(command("pretrain", at_six, *SETTINGS))
    assert numbers(at_six) == numbers(finished)
    assert json.loads((at_six / "result.json").read_text()) == json.loads((finished / "result.json").read_text())


@pytest.mark.parametrize("call", [3, 5])
def test_preempted_before_and_in_an_evaluation(finished, tmp_path, call):
    """At step 3, which is not saved otherwise: the third call follows the step, the fifth is in its evaluation."""
    calls = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(preemption.Preempted) as preempted:
        patch.setattr(preemption, "should_stop", lambda: next(calls) >= call)
        train.main(command("pretrain", tmp_path, *SETTINGS))
    assert "stopped by SIGTERM at step 3, which is saved" in preempted.value.text
    assert steps(tmp_path) == [2, 3]
    train.main(command("pretrain", tmp_path, *SETTINGS))
    assert numbers(tmp_path) == numbers(finished)


def test_preempted_while_libraries_are_loaded(tmp_path):
    run = Run(tmp_path / "run", devices=1)
    while not (tmp_path / "run" / lock.FILE).exists() and run.processes[0].poll() is None:
        pass
    assert run.preempt() == [0], run.all_output()
    assert "while there was nothing to save" in run.output[0]
