"""Two processes that were started with different commands."""

import os
import subprocess
import sys

import pytest
from patience import PATIENCE_S
from runs import free_port

PROGRAM = """
import sys
from beit_jax import command
from beit_jax.runtime import agreement, membership
def main(arguments):
    membership.start()
    agreement.check_agreement(dict(value.split("=") for value in arguments))
    print("agreed")
command.run(main)
"""


def start(*arguments):
    """The processes, one for each list of arguments, and their statuses and outputs once they have ended."""
    port, processes = free_port(), []
    for index, own in enumerate(arguments):
        variables = {
            "BEIT_JAX_COORDINATOR": f"127.0.0.1:{port}",
            "BEIT_JAX_PROCESS_COUNT": str(len(arguments)),
            "BEIT_JAX_PROCESS_INDEX": str(index),
        }
        streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        command = [sys.executable, "-c", PROGRAM, *own]
        processes.append(subprocess.Popen(command, env=os.environ | variables, **streams))
    outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in processes]
    return [process.returncode for process in processes], outputs


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (["seed=0", "lr=0.2"], "lr is 0.2, and 0.1 there"),
        (["lr=0.1"], "seed is absent, and 0 there"),
        (["seed=0", "lr=0.1", "a=1", "b=2", "c=3", "d=4", "e=5"], "d is 4, and absent there, and 1 more differ"),
    ],
)
def test_differences_are_named_in_both(other, difference):
    statuses, outputs = start(["seed=0", "lr=0.1"], other)
    assert statuses == [2, 2], outputs
    for output in outputs:
        assert "process 1 was not started as process 0 was: " in output and difference in output


def test_the_same_command():
    statuses, outputs = start(["seed=0"], ["seed=0"])
    assert statuses == [0, 0] and all("agreed" in output for output in outputs)
