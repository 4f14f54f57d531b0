"""Files and folders appear complete or not at all."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from beit_jax.runtime.atomic_write import PART, atomic_write, write_bytes, write_text


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "new folder" / "config.json"
    write_text(path, "one")
    assert path.read_text(encoding="utf-8") == "one"
    write_text(path, "zwölf")
    assert path.read_text(encoding="utf-8") == "zwölf"
    assert [file.name for file in path.parent.iterdir()] == ["config.json"]


def test_a_folder_is_written(tmp_path):
    with atomic_write(tmp_path / "model") as part:
        assert part.parent == tmp_path
        (part / "inner").mkdir(parents=True)
        (part / "inner" / "weights").write_bytes(b"123")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "inner" / "weights").read_bytes() == b"123"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_files_is_not_replaced(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"old")
    with pytest.raises(OSError), atomic_write(tmp_path / "model") as part:
        part.mkdir()
    assert (tmp_path / "model" / "weights").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, kind):
    path = tmp_path / "config.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as part:
        if kind == "file":
            part.write_text("new", encoding="utf-8")
        if kind == "folder":
            part.mkdir()
            (part / "inner").write_text("new", encoding="utf-8")
        raise ZeroDivisionError
    assert path.read_text(encoding="utf-8") == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "config.json"):
        pass


def test_contents_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    events, sync, replace = [], os.fsync, os.replace

    def note_sync(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}").rpartition("/")[2].partition(PART)[0])
        sync(descriptor)

    def note_replace(old, new):
        events.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_text(tmp_path / "config.json", "new")
    assert events == ["config.json", "replace", tmp_path.name]
    events.clear()
    with atomic_write(tmp_path / "model") as part:
        part.mkdir()
        (part / "weights").write_bytes(b"123")
    assert events == ["weights", "model", "replace", tmp_path.name]


def test_two_writers_have_their_own_temporary_files(tmp_path):
    with atomic_write(tmp_path / "shard") as first, atomic_write(tmp_path / "shard") as second:
        first.write_text("complete", encoding="utf-8")
        second.write_text("complete", encoding="utf-8")
    assert (tmp_path / "shard").read_text(encoding="utf-8") == "complete"


def test_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("old", encoding="utf-8")
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent("""
            import os, pathlib, signal, sys
            from beit_jax.runtime.atomic_write import atomic_write
            with atomic_write(pathlib.Path(sys.argv[1])) as part:
                part.write_text("half of the ne", encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)
            """), str(path)]
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text(encoding="utf-8") == "old"
    write_text(path, "new")  # the temporary file of the killed process is in nobody's way
    assert path.read_text(encoding="utf-8") == "new"
    (left,) = (file for file in tmp_path.iterdir() if file != path)
    assert left.name.startswith(f"config.json{PART}")


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "elsewhere" / "file").read_text() == "new"


def test_a_pipe_is_written_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        write_text(tmp_path / "pipe", "through")
        assert reader.stdout.read() == b"through"
    assert (tmp_path / "pipe").is_fifo() and [file.name for file in tmp_path.iterdir()] == ["pipe"]


def test_bytes(tmp_path):
    write_bytes(tmp_path / "folder" / "file", b"\xff")
    assert (tmp_path / "folder" / "file").read_bytes() == b"\xff"
