"""A Slurm cluster for a test: its daemons on hosts that are network namespaces of this machine.

It needs Debian's packages munge and slurm-wlm, and what `distributed/hosts.py` needs, root among it.
"""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from distributed import hosts
from patience import PATIENCE_S

# Two partitions share the nodes: a job of `high` preempts one of `low`, whose processes have GraceTime to end. A job
# that is queued again waits for cred_expire seconds; processes that are told to end have KillWait.
CONFIG = """
ClusterName=test
SlurmctldHost=host0
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/none
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2
SelectType=select/linear
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=60
NodeName=host[0-1] CPUs=2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=120
PartitionName=high Nodes=ALL PriorityTier=2
"""


def is_possible() -> bool:
    """Whether the daemons are installed, and this user may make hosts."""
    return all(map(shutil.which, ("slurmctld", "slurmd", "munged"))) and hosts.can_make_hosts()


class Cluster:
    """Nodes `host0` and `host1`.

    Attributes:
      address: of the first node.
      environment: of all programs, and so of the jobs.
    """

    def __init__(self, network: hosts.Hosts, folder: Path):
        self._network, self._folder, self.address = network, folder, network.addresses[0]
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self, node: int, command: Sequence[str]) -> subprocess.Popen:
        """Starts a program on a node."""
        with open(self._folder / f"{Path(command[0]).name}-{node}.log", "w") as log:
            placed = self._network.command(node, command)
            return subprocess.Popen(placed, stdout=log, stderr=log, env=self.environment)

    def logs(self) -> str:
        """What the daemons have said last."""
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in self._folder.glob("*.log"))

    def call(self, *command: str, cwd: Path | None = None) -> str:
        """The output of a program that runs on the first node."""
        placed = self._network.command(0, command)
        done = subprocess.run(placed, capture_output=True, text=True, env=self.environment, cwd=cwd)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def state(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job: `JobState`, `Restarts`, `ExitCode`, ..."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "show", "job", job)))

    def wait_for(self, condition: Callable[[], object], report: Callable[[], object]) -> None:
        """Returns once a condition holds; the test fails with a report if it does not in time."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, report()
            time.sleep(0.5)


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    """Starts a cluster, and ends its jobs and daemons."""
    with hosts.made(2, folder) as network, contextlib.ExitStack() as stack:
        cluster = Cluster(network, folder)
        (folder / "state").mkdir()
        (folder / "slurm.conf").write_text(CONFIG.format(folder=folder))
        (folder / "cgroup.conf").write_text(
            "CgroupPlugin=cgroup/v1\n"
        )  # named, because a namespace has no /sys/fs/cgroup
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        files = ["socket", "key-file", "pid-file", "log-file", "seed-file"]
        munge = [f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in files]
        for node, *command in (
            (0, "munged", "--foreground", "--force", *munge),  # the socket serves both nodes
            (0, "slurmctld", "-D", "-i"),
            *((node, "slurmd", "-D", "-N", hosts.host(node)) for node in range(2)),
        ):
            stack.callback(_end, cluster.start(node, command))
            if command[0] == "munged":
                cluster.wait_for((folder / "munge.socket").exists, cluster.logs)
        cluster.wait_for(lambda: cluster.call("sinfo", "-h", "-o", "%D %t").split("\n")[0] == "2 idle", cluster.logs)
        stack.callback(_cancel_all, cluster)
        yield cluster


def _cancel_all(cluster: Cluster) -> None:
    for _ in range(2):  # a job that ends may queue itself once more
        cluster.call("scancel", "--state=RUNNING", "--signal=KILL", "--full")
        cluster.call("scancel", "--user=root")
    cluster.wait_for(lambda: not cluster.call("squeue", "-h"), cluster.logs)


def _end(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(30)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
