"""Jobs of launch/slurm.sh that are preempted, queued again and continued, on a cluster of Slurm's real daemons."""

import re
import sys

import pytest
import slurm_cluster
from distributed.runs import numbers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not slurm_cluster.is_possible(), reason="needs root, munge, slurm-wlm and iproute2"),
]
STEPS = 100
ARGUMENTS = [
    *("--config=configs/pretrain_features.py:runlocal", "--config.batch_size=16", f"--config.steps={STEPS}"),
    *("--config.log_every=20", "--config.eval_every=50", "--config.save_every=1000"),  # a checkpoint is of a preemption
]
STORE = """
import sys, threading, object_store
with object_store.serve("beit", host=sys.argv[1], port=4443):
    threading.Event().wait()
"""
READ = "import sys; from beit_jax.runtime.paths import as_path; print(as_path(sys.argv[1]).read_text(), end='')"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, repository):
    with slurm_cluster.started(tmp_path_factory.mktemp("slurm")) as made:
        made.environment |= {"PYTHON": sys.executable, "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(repository)}
        yield made


@pytest.fixture
def bucket(cluster, repository, monkeypatch):
    """A bucket on the first node, which the processes of a job use."""
    monkeypatch.setitem(cluster.environment, "PYTHONPATH", f"{repository}:{repository / 'tests' / 'buckets'}")
    monkeypatch.setitem(cluster.environment, "STORAGE_EMULATOR_HOST", f"http://{cluster.address}:4443")
    server = cluster.start(0, [sys.executable, "-c", STORE, cluster.address])
    yield "gs://beit"
    server.terminate()
    server.wait()


class Job:
    """A job, in the partition of low priority."""

    def __init__(self, cluster, repository, logs, workdir, nodes):
        flags = [f"--logs={logs}", "--name=trial", f"--nodes={nodes}", "--", *ARGUMENTS, f"--workdir={workdir}"]
        self.cluster, said = cluster, cluster.call("launch/slurm.sh", *flags, cwd=repository)
        self.number = re.fullmatch(r"Submitted batch job (\d+)\n", said)[1]
        self.path = logs / f"trial-{self.number}.log"

    def log(self):
        return self.path.read_text() if self.path.exists() else ""

    def has_ended(self):
        return self.cluster.state(self.number)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")

    def wait_for_step(self, step):
        self.cluster.wait_for(lambda: f" {step}/{STEPS} " in self.log() or self.has_ended(), self.log)
        assert not self.has_ended(), self.log()

    def finish(self, restarts):
        """Waits for the end."""
        self.cluster.wait_for(self.has_ended, self.log)
        found, log = self.cluster.state(self.number), self.log()
        assert (found["JobState"], found["ExitCode"], found["Restarts"]) == ("COMPLETED", "0:0", str(restarts)), log
        assert re.findall(r"^job \d+, start (\d+), on ", log, re.MULTILINE) == [str(i + 1) for i in range(restarts + 1)]
        saved = re.findall(r"stopped by SIGTERM at step (\d+), which is saved", log)
        assert len(saved) == restarts and re.findall(r"continuing from step (\d+);", log) == saved, log


@pytest.fixture
def submit(cluster, repository, tmp_path):
    """Submits a job, and returns it once it has made some steps."""

    def submit(workdir, nodes):
        job = Job(cluster, repository, tmp_path / "logs", workdir, nodes)
        job.wait_for_step(40)
        return job

    return submit


@pytest.fixture(scope="module")
def expected(cluster, repository, tmp_path_factory):
    """The metrics of runs that were not preempted, by the number of nodes."""
    found = {}
    for nodes in (1, 2):
        folder = tmp_path_factory.mktemp("expected")
        Job(cluster, repository, folder / "logs", folder / "run", nodes).finish(restarts=0)
        found[nodes] = numbers(folder / "run")
        assert found[nodes][-1]["step"] == STEPS
    return found


def test_queued_again_by_an_administrator(cluster, submit, tmp_path, expected):
    job = submit(tmp_path / "run", nodes=1)
    cluster.call("scontrol", "requeue", job.number)
    job.finish(restarts=1)
    assert numbers(tmp_path / "run") == expected[1]


def test_preempted_by_a_job_of_higher_priority(cluster, submit, tmp_path, expected):
    job = submit(tmp_path / "run", nodes=2)
    cluster.call("srun", "--partition=high", "--nodes=2", "true")
    job.finish(restarts=1)
    assert numbers(tmp_path / "run") == expected[2]


def test_near_its_time_limit_with_its_workdir_in_a_bucket(cluster, submit, tmp_path, bucket, expected):
    job = submit(f"{bucket}/run", nodes=2)
    cluster.call("scancel", "--batch", "--signal=TERM", job.number)  # what Slurm does for --signal=B:TERM@120
    job.finish(restarts=1)
    (tmp_path / "metrics.jsonl").write_text(cluster.call(sys.executable, "-c", READ, f"{bucket}/run/metrics.jsonl"))
    assert numbers(tmp_path) == expected[2]
