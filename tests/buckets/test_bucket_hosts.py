"""Several hosts, started by a script of `launch/`, that share nothing but a bucket."""

import shutil
import signal
import subprocess
import threading
import time

import object_store
import pytest
from distributed import hosts as network
from distributed.hosts import Link
from distributed.runs import Run, close, numbers
from test_bucket_runs import errors_of

from beit_jax.runtime.checkpoint_folder import own_checkpoints
from beit_jax.runtime.paths import as_path

pytestmark = [
    pytest.mark.usefixtures("in_the_checkout"),
    pytest.mark.slow,
    pytest.mark.skipif(not network.can_make_hosts(), reason="hosts are namespaces, which need root, ip and unshare"),
]
HOSTS = 4
FULL = 'mount -t tmpfs -o size=64k tmpfs "$1" && head -c 65536 /dev/zero > "$1/full"; shift; exec "$@"'


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with network.made(HOSTS, tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture(scope="module")
def store(hosts, connected):
    """A store on this machine, which the hosts reach by their network."""
    with object_store.serve(host=network.HERE) as store, connected(store):
        yield store


@pytest.fixture(autouse=True)
def links_are_restored(hosts):
    yield
    hosts.links[:] = [Link() for _ in hosts.links]


@pytest.fixture
def start(hosts, folder):
    """Starts a run on the first hosts, with eight devices in all."""
    runs = []

    def start(count=2, wrap=None, **environment):
        placed = hosts if wrap is None else wrap
        runs.append(Run(folder, processes=count, devices=8 // count, hosts=placed, **environment))
        return runs[-1]

    yield start
    for process in (process for run in runs for process in run.processes):
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def expected(hosts, store, repository):
    """The metrics of a run of two hosts without faults."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        Run("gs://beit/expected", processes=2, devices=4, hosts=hosts).finish()
    return numbers(as_path("gs://beit/expected"))


class Launched:
    """Hosts on which a command is started by a script of `launch/`, or within another command."""

    def __init__(self, hosts, *script, only=None):
        self.hosts, self.script, self.only = hosts, script, only

    def command(self, index, command):
        """See `network.Hosts`."""
        return self.hosts.command(index, [*self.script, *command] if self.only in (None, index) else command)


def test_four_hosts_then_two_then_one(hosts, folder, start, expected):
    """A scheduler that sends SIGTERM to every host finds status 42, which says that the run is to be started again."""
    run = start(4, Launched(hosts, "launch/restartable.sh")).wait_for(" 10/24 ")
    for process in run.processes:
        subprocess.run(["pkill", "-TERM", "-P", str(process.pid)], check=False)
        process.send_signal(signal.SIGTERM)
    assert set(run.statuses()) <= {0, 42} and 42 in run.statuses(), run.all_output()
    assert own_checkpoints(folder)
    second = start(2).wait_for(" 15/24 ")
    assert second.preempt(index=1) == [0, 0]
    Run(folder, devices=8).finish()
    close(numbers(folder), expected)


def test_the_bucket_is_away_for_a_minute(hosts, folder, start, expected):
    run = start().wait_for(" 5/24 ")
    hosts.links[-1] = Link(is_cut=True)
    threading.Timer(60, lambda: hosts.links.__setitem__(-1, Link())).start()
    run.finish()
    assert numbers(folder) == expected


def test_the_bucket_is_away_for_good(hosts, store, folder, start, expected):
    """Every process ends, and what was committed is there."""
    run = start(BEIT_JAX_BUCKET_PATIENCE="20").wait_for(" 20/24 ")
    committed = {path.name for path in own_checkpoints(folder)}
    store.is_gone, gone = True, time.monotonic()
    assert all(run.statuses()), run.all_output()
    assert time.monotonic() - gone < 240
    assert all(len(errors_of(text)) == 1 for text in run.output), run.all_output()
    assert any("run the same command again" in text for text in run.output) and "Traceback" not in run.all_output()
    store.is_gone = False
    assert committed <= {path.name for path in own_checkpoints(folder)}
    start().finish()
    assert numbers(folder) == expected


@pytest.mark.parametrize("harmed", [0, 1])
def test_a_host_is_killed(hosts, folder, start, expected, harmed):
    run = start().wait_for(" 15/24 ")
    run.processes[harmed].kill()
    assert run.statuses(only=1 - harmed) == 1
    (line,) = errors_of(run.output[1 - harmed])
    assert f"process {harmed} (host{harmed}) " in line
    start().finish()
    assert numbers(folder) == expected


@pytest.mark.parametrize("full", [0, 1])
def test_the_disk_of_a_host_is_full(hosts, folder, start, expected, tmp_path, full):
    """Temporary files have no room there: a run with its workdir in a bucket needs none."""
    small = tmp_path / "small"
    small.mkdir()
    launched = Launched(hosts, "env", f"TMPDIR={small}", "sh", "-c", FULL, "sh", str(small), only=full)
    start(wrap=launched).finish()
    assert numbers(folder) == expected


def test_the_lock_of_another_host(hosts, folder, start):
    """A start elsewhere, while the run goes on, is refused; after the host is gone, it waits and goes on."""
    run = start().wait_for(" 5/24 ")
    alone = Run(folder, devices=8)
    statuses = alone.statuses()
    run.finish()
    assert statuses == [2] and "is in use by process" in alone.all_output()
    assert "on host0" in alone.all_output()


def test_stopped_and_going_on_elsewhere(hosts, folder, start, expected):
    """Two hosts are cut off. Another one, which cannot ask about their processes, waits for their silence."""
    run = start().wait_for(" 15/24 ")
    for link in (0, 1):
        hosts.links[link] = Link(is_cut=True)
    began = time.monotonic()
    placed = shutil.which("unshare"), "--pid", "--fork", "--mount-proc"
    elsewhere = Run(folder, devices=8, hosts=Launched(_Here(), *placed)).finish()
    assert time.monotonic() - began > 35, elsewhere.all_output()
    close(numbers(folder), expected)
    assert all(run.statuses())


class _Here:
    def command(self, index, command):
        """See `network.Hosts`."""
        return list(command)
