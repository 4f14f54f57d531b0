"""Runs that Slurm preempts, requeues and continues, on a cluster of its real daemons."""

import re
import sys

import pytest
import slurm_cluster
from distributed import hosts
from distributed.runs import numbers

from beit_jax.runtime.paths import as_path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not slurm_cluster.is_possible(), reason="needs root, munge, slurm-wlm and iproute2"),
]
STEPS = 100
ARGUMENTS = [
    *("--config=configs/pretrain_features.py:runlocal", "--config.batch_size=16", f"--config.steps={STEPS}"),
    *("--config.log_every=20", "--config.eval_every=50", "--config.save_every=1000"),  # only preemption saves
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, repository):
    with slurm_cluster.started(tmp_path_factory.mktemp("slurm")) as made:
        made.environment |= {"PYTHON": sys.executable, "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(repository)}
        yield made


class Job:
    """A job of `launch/slurm.sh`."""

    def __init__(self, cluster, repository, logs, workdir, *flags):
        flags = [f"--logs={logs}", "--name=trial", *flags, "--", *ARGUMENTS, f"--workdir={workdir}"]
        self.cluster, said = cluster, cluster.call("launch/slurm.sh", *flags, cwd=repository)
        self.number = re.fullmatch(r"Submitted batch job (\d+)\n", said)[1]
        self.path = logs / f"trial-{self.number}.log"

    @property
    def log(self):
        return self.path.read_text() if self.path.exists() else ""

    def wait_for_step(self, step):
        self.cluster.wait_for(lambda: f" {step}/{STEPS} " in self.log or self.has_ended(), lambda: self.log)
        assert not self.has_ended(), self.log

    def has_ended(self):
        return self.cluster.state(self.number)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")

    def finish(self, restarts):
        """Waits for the end; returns the step at which the run was continued, if it was."""
        self.cluster.wait_for(self.has_ended, lambda: self.log)
        found = self.cluster.state(self.number)
        assert (found["JobState"], found["ExitCode"], found["Restarts"]) == ("COMPLETED", "0:0", str(restarts)), self.log
        assert len(re.findall(r"^job \d+, start \d+, on ", self.log, re.MULTILINE)) == restarts + 1
        return self.log


@pytest.fixture
def submit(cluster, repository, tmp_path):
    return lambda *flags, workdir=tmp_path / "run": Job(cluster, repository, tmp_path / "logs", workdir, *flags)


@pytest.fixture(scope="module")
def expected(cluster, repository, tmp_path_factory):
    """The metrics of runs that were not preempted, by the number of nodes."""
    found = {}
    for nodes in (1, 2):
        folder = tmp_path_factory.mktemp("expected")
        Job(cluster, repository, folder / "logs", folder / "run", f"--nodes={nodes}").finish(restarts=0)
        found[nodes] = numbers(folder / "run")
    assert found[1][-1]["step"] == STEPS
    return found


@pytest.mark.parametrize("nodes", [1, 2])
def test_requeued_by_an_administrator(cluster, submit, tmp_path, expected, nodes):
    job = submit(f"--nodes={nodes}")
    job.wait_for_step(40)
    cluster.call("scontrol", "requeue", job.number)
    print(job.finish(restarts=1))
    assert numbers(tmp_path / "run") == expected[nodes]


def test_preempted_by_a_job_of_higher_priority(cluster, submit, tmp_path, expected):
    job = submit("--nodes=2")
    job.wait_for_step(40)
    cluster.call("srun", "--partition=high", "--nodes=2", "true")  # returns when the nodes were given to it
    print(job.finish(restarts=1))
    assert numbers(tmp_path / "run") == expected[2]
