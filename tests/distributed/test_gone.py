"""One of two processes is killed or stopped: the other one ends, and says which one it was."""

import os
import signal
import subprocess
import sys
import time

import pytest
from patience import PATIENCE_S
from runs import free_port

PROGRAM = """
import sys, time
from beit_jax import command
from beit_jax.runtime import distributed, membership, sign_of_life
sign_of_life.SILENCE_S = 4.0
def main(arguments):
    membership.start()
    distributed.barrier("started")
    print("started", flush=True)
    time.sleep(float(arguments[0]))
    distributed.barrier("slept")
    print("done", flush=True)
command.run(main)
"""


def start(index, address, seconds=60.0):
    own = {"BEIT_JAX_COORDINATOR": address, "BEIT_JAX_PROCESS_COUNT": "2", "BEIT_JAX_PROCESS_INDEX": str(index)}
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(seconds)], env=os.environ | own, **streams)


def pair(seconds=2.0 * PATIENCE_S):
    """Two processes that have met, and sleep."""
    address = f"127.0.0.1:{free_port()}"
    processes = [start(index, address, seconds) for index in range(2)]
    for process in processes:
        assert process.stdout.readline().startswith("started"), process.communicate()
    time.sleep(1.5)  # signs are exchanged
    return address, processes


def error_of(process):
    """The one error line of a process, which ends in time; JAX's log may come before or after it."""
    errors = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 1 and "Terminating process because" not in errors and "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("harmed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed(harmed):
    _, processes = pair()
    processes[harmed].kill()
    line = error_of(processes[1 - harmed])
    processes[harmed].communicate()
    said = "has ended without a message" if harmed == 0 else "has been silent for 4 s"
    assert line.startswith(f"error: process {harmed} (") and said in line
    assert line.endswith("; start all processes again to continue from the newest checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("harmed", [0, 1])
def test_stopped_for_ever(harmed):
    _, processes = pair()
    processes[harmed].send_signal(signal.SIGSTOP)
    line = error_of(processes[1 - harmed])
    processes[harmed].kill()
    processes[harmed].communicate()
    assert line.startswith(f"error: process {harmed} (") and "has been silent for 4 s; start all processes" in line


@pytest.mark.slow
@pytest.mark.parametrize("harmed", [0, 1])
def test_stopped_for_a_while(harmed):
    _, processes = pair(seconds=5.0)
    processes[harmed].send_signal(signal.SIGSTOP)
    time.sleep(2.0)
    processes[harmed].send_signal(signal.SIGCONT)
    for process in processes:
        assert process.communicate(timeout=PATIENCE_S)[0] == "done\n" and process.returncode == 0


@pytest.mark.slow
def test_started_a_second_time():
    address, processes = pair()
    second = start(1, address)
    assert "a process of it was started a second time" in error_of(processes[0])
    error_of(processes[1])
    second.kill()
    second.communicate()
