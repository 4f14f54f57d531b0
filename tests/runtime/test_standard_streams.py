"""A command whose output is closed, loses its reader, or goes to a full disk does its work all the same."""

import os
import subprocess
import sys

import pytest
from patience import PATIENCE_S

PROGRAM = """
import os, pathlib, sys
from beit_jax import command
def main(arguments):
    for number in range(20_000):
        print("line", number)
    with open(sys.argv[1], "w") as file:
        file.write(f"descriptor {file.fileno() > 2}, done")
    print("a warning", file=sys.stderr)
command.run(main)
"""


@pytest.mark.parametrize(
    ("where", "status", "error"),
    [
        ("| head -1", 0, "a warning\n"),
        (">&-", 0, "a warning\n"),
        (">&- 2>&- <&-", 0, ""),
        (
            "> /dev/full",
            2,
            "a warning\nerror: standard output cannot be written: No space left on device; everything else was done, "
            "and what was printed is lost: write to another file\n",
        ),
        ("2> /dev/full | tail -1", 0, ""),
    ],
)
def test_the_work_is_done(repository, tmp_path, where, status, error):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = f"{sys.executable} {tmp_path}/program.py {tmp_path}/file {where}; exit ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (status, error)
    assert (tmp_path / "file").read_text() == "descriptor True, done"
