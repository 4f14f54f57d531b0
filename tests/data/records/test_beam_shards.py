"""`shard_dataset --beam_runner`: the same bytes as without Beam, after a kill too, and errors in one line."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import refused
from test_shard_dataset import files_of, many, write

from beit_jax import shard_dataset
from beit_jax.data.records import shard_plan
from beit_jax.errors import UserError

pytest.importorskip("apache_beam")

NAMES = ["--name=photos", "--shards=24", "--beam_runner=DirectRunner"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return many(tmp_path_factory.mktemp("beam") / "images")


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    write(images, tmp_path_factory.mktemp("expected"), 24)
    return files_of(tmp_path_factory.getbasetemp() / "expected0")


def arguments(images, out):
    return [f"--images={images}", f"--out={out}", *NAMES]


def test_processes_of_beam_write_the_same_bytes(repository, images, expected, tmp_path, capsys):
    page = (repository / "docs" / "data.md").read_text().replace("\\\n", "")
    options = shlex.split(
        re.search(r"^python .*shard_dataset --images photos --out records (--beam.*)$", page, re.M)[1]
    )
    shard_dataset.main([*arguments(images, tmp_path / "out"), *options])
    assert files_of(tmp_path / "out") == expected
    assert "240 images in train, 24 shards" in capsys.readouterr().out


def test_killed_and_run_again(images, expected, tmp_path):
    command = [sys.executable, "-m", "beit_jax.shard_dataset", *arguments(images, tmp_path / "out")]
    folder, limit = tmp_path / "out" / "photos" / "1.0.0", time.monotonic() + 200
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        while len(list(folder.glob("*-of-00024"))) < 3:
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.001)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*-of-00024")}
    assert 3 <= len(kept) < 24 and not (folder / "features.json").exists()
    shard_dataset.main(command[3:])
    assert files_of(tmp_path / "out") == expected
    assert all(path.stat().st_mtime_ns == made for path, made in kept.items())


def test_what_goes_wrong_is_one_line(images, tmp_path, monkeypatch, caplog, capfd):
    def told(*more):
        return refused([*arguments(images, tmp_path / "out"), *more], shard_dataset)

    assert "expected one: Beam's runner starts the workers" in told("--worker=0/2")
    assert "NoSuchRunner" in told("--beam_runner=NoSuchRunner")
    assert "Discarding unparseable args: ['--direct_num_worker=2']" in told("--beam_option=direct_num_worker=2")
    assert "argument --direct_num_workers: invalid int value: 'two'" in told("--beam_option=direct_num_workers=two")
    assert "does not take these --beam_option: found help" in told("--beam_option=help")
    assert "found --beam_option without --beam_runner" in told("--beam_runner=", "--beam_option=a=b")
    listed, read = shard_plan.list_images, Path.read_bytes

    def list_and_lose(root):
        found = listed(root)
        monkeypatch.setattr(Path, "read_bytes", lose)
        return found

    def lose(path):
        if path.suffix != ".jpg":
            return read(path)
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(shard_plan, "list_images", list_and_lose)
    line = r"^cannot read .*\.jpg: Input/output error; repair or remove it, and run the same command again$"
    for more in ([], ["--beam_option=direct_num_workers=2", "--beam_option=direct_running_mode=multi_threading"]):
        monkeypatch.undo()
        monkeypatch.setattr(shard_plan, "list_images", list_and_lose)
        with pytest.raises(UserError, match=line):
            shard_dataset.main([*arguments(images, tmp_path / "lost"), *more])
        printed = capfd.readouterr().err  # workers of other modes print what they raise
        assert more or "Traceback" not in caplog.text + printed
