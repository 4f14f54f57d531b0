"""Fixtures that run scripts as users do: from the root of the repository, in processes of their own."""

import os
import signal
import subprocess
import sys
import time

import pytest
from patience import PATIENCE_S

# A trainer that prints its environment and then does what its arguments say; SIGTERM and SIGINT end it with status 0.
TRAINER = """
import json, os, signal, sys, time
received = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: received.append(number))
index = os.environ.get("BEIT_JAX_PROCESS_INDEX", "0")
folder = os.path.dirname(os.path.abspath(__file__))
ready = [f"{folder}/ready{i}" for i in range(int(os.environ.get("BEIT_JAX_PROCESS_COUNT", "1")))]
open(f"{folder}/ready{index}", "w").close()
names = ("BEIT_JAX_COORDINATOR", "BEIT_JAX_PROCESS_COUNT", "BEIT_JAX_PROCESS_INDEX", "CUDA_VISIBLE_DEVICES")
print(json.dumps({"argv": sys.argv[1:], **{name: os.environ.get(name) for name in names}}), flush=True)
for rule in sys.argv[1:]:  # INDEX=STATUS: ends at once; INDEX=deaf: ignores SIGTERM
    process, _, what = rule.partition("=")
    if process == index and what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif process == index:
        while what != "0" and not all(map(os.path.exists, ready)):  # a failure comes when all handle signals
            time.sleep(0.02)
        sys.exit(int(what))
while not received:
    time.sleep(0.02)
print("saved after signal", received[0], flush=True)
"""


@pytest.fixture
def environment(tmp_path):
    """Environment of a script: programs are searched in tmp_path/bin first; the trainer is `--module fake_trainer`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "fake_trainer.py").write_text(TRAINER)
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
        "PYTHON": sys.executable,
    }


@pytest.fixture
def program(tmp_path, environment):
    """A function that replaces a program by a bash script."""

    def replace(name, text):
        file = tmp_path / "bin" / name
        file.write_text(f"#!/usr/bin/env bash\n{text}\n")
        file.chmod(0o755)

    return replace


@pytest.fixture
def launch(repository, environment):
    """A function that runs a script of launch/ to its end."""

    def run(script, *arguments, cwd=repository):
        command = [str(repository / "launch" / script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=PATIENCE_S)

    return run


@pytest.fixture
def start(repository, environment):
    """A function that starts a script of launch/; processes that are left are killed at the end of the test."""
    started = []

    def run(script, *arguments, **more):
        process = subprocess.Popen(
            [str(repository / "launch" / script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=repository,
            env=environment | more,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()


@pytest.fixture
def wait_for():
    """A function that waits until a condition holds."""

    def wait(condition, seconds=PATIENCE_S):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    return wait
