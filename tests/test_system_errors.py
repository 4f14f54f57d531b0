"""What the system refuses becomes one line that says what to do, wherever in a command it is raised."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE_S

from beit_jax import system_errors


def write_too_much(folder):
    with open("/dev/full", "w") as file:
        file.write("a")


def name_too_long(folder):
    (folder / ("a" * 300)).read_bytes()


def no_home(folder):
    Path("~nobody-of-this-name/runs").expanduser()


def no_thread(folder):
    raise RuntimeError("can't start new thread")  # as `threading` words it


def library_on_a_full_disk(folder):
    raise ValueError('RESOURCE_EXHAUSTED: Error writing "a/0.0": No space left on device [os_error_code=28]\nmore')


def rename_onto_another_disk(folder):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "from", None, "to")


@pytest.mark.parametrize(
    ("fail", "line"),
    [
        (write_too_much, "No space left on device; free some space, and run the same command again"),
        (
            library_on_a_full_disk,
            'RESOURCE_EXHAUSTED: Error writing "a/0.0": No space left on device [os_error_code=28]: No space left on '
            "device; free some space, and run the same command again",
        ),
        (name_too_long, f"FOLDER/{'a' * 300}: File name too long; choose a shorter path"),
        (no_home, "could not determine home directory; set the environment variable HOME, or write a path without ~"),
        (
            no_thread,
            "can't start new thread; raise the limit of processes and threads (ulimit -u), or that of memory (ulimit "
            "-v)",
        ),
        (
            rename_onto_another_disk,
            "from: to: Permission denied; choose another path, or give this user the right to read or write it",
        ),
    ],
)
def test_an_error_that_a_user_can_correct(tmp_path, fail, line):
    with pytest.raises((OSError, RuntimeError, ValueError)) as error:
        fail(tmp_path)
    assert str(system_errors.explain(error.value)) == line.replace("FOLDER", str(tmp_path))


def test_too_many_open_files(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(OSError) as error:
            (tmp_path / "file").touch()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert str(system_errors.explain(error.value)) == (
        f"{tmp_path}/file: Too many open files; raise the limit of open files (ulimit -n), and run the same command "
        "again"
    )


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "gone"), RuntimeError("a bug"), OSError("no number")]
)
def test_other_errors_keep_their_trace(error):
    assert system_errors.explain(error) is None


def test_a_command_ends_with_one_line(repository):
    program = "from beit_jax import command\ncommand.run(lambda arguments: open('a' * 300))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stderr) == (
        2,
        f"error: {'a' * 300}: File name too long; choose a shorter path\n",
    )
