"""The machine that two processes see: the same, whatever part of their hosts each may use."""

import os
import subprocess
import sys

import pytest
from patience import PATIENCE_S
from runs import free_port

CODE = """
import os, threading
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: 1 + int(os.environ["BEIT_JAX_PROCESS_INDEX"])])
from beit_jax.machine import find_machine
from beit_jax.runtime import membership
find_machine()
membership.start()
watching = [thread for thread in threading.enumerate() if thread.name == "other processes"]
print(find_machine().cores, len(watching))
membership.finish()
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2, reason="needs two cores, Linux")
def test_processes_with_other_cores_agree(repository):
    address, processes = f"127.0.0.1:{free_port()}", []
    for index in range(2):
        own = {"BEIT_JAX_COORDINATOR": address, "BEIT_JAX_PROCESS_COUNT": "2", "BEIT_JAX_PROCESS_INDEX": str(index)}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", CODE],
                env=os.environ | own | {"JAX_NUM_CPU_DEVICES": "1"},
                cwd=repository,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE_S)
        assert out == "3 1\n", err  # cores of both, and one thread that watches the other process
