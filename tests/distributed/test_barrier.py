"""What processes tell each other, without a model."""

import os
import subprocess
import sys

import pytest
from patience import PATIENCE_S
from runs import free_port

START = """
import time
from beit_jax.runtime import distributed as d, membership as m
m.start()
me = d.process_index()
"""


def processes(code, count=3):
    """Runs the same code in several processes; returns their statuses and output."""
    port, running = free_port(), []
    for index in range(count):
        own = {"BEIT_JAX_COORDINATOR": f"127.0.0.1:{port}", "BEIT_JAX_PROCESS_COUNT": str(count)}
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", START + code],
                env=os.environ | own | {"BEIT_JAX_PROCESS_INDEX": str(index)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    output = [process.communicate(timeout=PATIENCE_S)[0] for process in running]
    return [process.returncode for process in running], output


def test_agreement_and_the_main_process():
    code = (
        "print(d.any_process(me == 2), d.any_process(False), d.broadcast_from_main(str(me)), d.is_main()); m.finish()"
    )
    statuses, output = processes(code)
    assert statuses == [0, 0, 0]
    assert [text.split() for text in output] == [["True", "False", "0", str(me == 0)] for me in range(3)]


@pytest.mark.slow
def test_a_barrier_names_who_is_missing():
    code = """
try:
    d.barrier("late", 2.0) if me != 1 else time.sleep(5)
except Exception as error:
    print(type(error).__name__, error)
m.finish()
"""
    _, output = processes(code)
    for me in (0, 2):
        assert "UserError after 2 s at the barrier 'late' these processes are missing: 1 (" in output[me], output


@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_ends_the_other(failing):
    statuses, output = processes(f"m.exit_all(2, 'no such thing') if me == {failing} else time.sleep(60)", count=2)
    assert statuses == [2, 2]
    other = output[1 - failing]
    assert f"error: process {failing} (" in other and "): no such thing; this process ends" in other
