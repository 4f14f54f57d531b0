"""Runs of `beit_jax.train` in processes of their own, on simulated devices."""

import os
import select
import signal
import socket
import subprocess
import sys
import time

import numpy as np
from patience import PATIENCE_S

from beit_jax.training.metrics import read_metrics

CONFIG = "configs/pretrain.py:runlocal"
SHORT = ["--config.batch_size=16", "--config.steps=24", "--config.log_every=5", "--config.eval_every=12"]
SHORT += ["--config.save_every=12", "--config.keep=9", "--config.mesh.fsdp=2"]


class Run:
    """One run of one or several processes, here or each on a host of `hosts.made`."""

    def __init__(self, workdir, processes=1, devices=8, arguments=SHORT, config=CONFIG, hosts=None, **environment):
        address = f"127.0.0.1:{free_port()}" if hosts is None else "host0:5000"
        self.output = ["" for _ in range(processes)]
        self.processes = []
        command = [sys.executable, "-m", "beit_jax.train", f"--config={config}", f"--workdir={workdir}", *arguments]
        for index in range(processes):
            own = os.environ | environment | {"JAX_NUM_CPU_DEVICES": str(devices)}
            if processes > 1:
                own |= {
                    "BEIT_JAX_COORDINATOR": address,
                    "BEIT_JAX_PROCESS_COUNT": str(processes),
                    "BEIT_JAX_PROCESS_INDEX": str(index),
                }
            placed = command if hosts is None else hosts.command(index, command)
            self.processes.append(
                subprocess.Popen(placed, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
        for process in self.processes:
            os.set_blocking(process.stdout.fileno(), False)

    def wait_for(self, text):
        """Returns once the first process has printed a text."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.output[0]:
            assert time.monotonic() < deadline and self.processes[0].poll() is None, self.all_output()
            self._read()
        return self

    def preempt(self, index=0):
        """Sends SIGTERM to one process and returns the statuses of all."""
        self.processes[index].send_signal(signal.SIGTERM)
        return self.statuses()

    def statuses(self, only=None):
        """Statuses of all processes, once they have ended; that of one process, with its index."""
        awaited = self.processes if only is None else [self.processes[only]]
        deadline = time.monotonic() + PATIENCE_S
        while any(process.poll() is None for process in awaited):
            assert time.monotonic() < deadline, self.all_output()
            self._read()
        self._read()
        found = [process.returncode for process in awaited]
        return found if only is None else found[0]

    def finish(self):
        """Waits for the end, and checks that every process succeeded."""
        assert not any(self.statuses()), self.all_output()
        return self

    def all_output(self):
        """The output of all processes."""
        return "\n----\n".join(self.output)

    def _read(self):
        streams = [process.stdout for process in self.processes]
        for stream in select.select(streams, [], [], 0.01)[0]:
            self.output[streams.index(stream)] += stream.read() or ""
        time.sleep(0.01)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def numbers(workdir):
    """The lines of a run's metrics, without metrics of time."""
    skip = ("examples_per_second", "input_wait")
    lines = read_metrics(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in skip} for line in lines]


def close(found, expected):
    """The same lines, numbers to 1e-5."""
    assert [sorted(line) for line in found] == [sorted(line) for line in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose([one[name] for name in sorted(one)], [other[name] for name in sorted(one)], 1e-5)
