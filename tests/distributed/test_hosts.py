"""Two hosts as one run, whose links are slow, cut and restored, and of which one is killed or stopped."""

import shutil
import signal
import time

import hosts as network
import pytest
from hosts import Link
from runs import Run, close, numbers

pytestmark = [
    pytest.mark.usefixtures("in_the_checkout"),
    pytest.mark.slow,
    pytest.mark.skipif(not network.can_make_hosts(), reason="hosts are namespaces, which need root, ip and unshare"),
]
HOW_TO_GO_ON = "; start all processes again to continue from the newest checkpoint"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with network.made(2, tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture(autouse=True)
def links_are_restored(hosts):
    yield
    hosts.links[:] = [Link() for _ in hosts.links]


@pytest.fixture(scope="module")
def expected(hosts, tmp_path_factory, repository):
    """The metrics of a run without faults."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        workdir = tmp_path_factory.mktemp("expected")
        Run(workdir, processes=2, devices=4, hosts=hosts).finish()
    return numbers(workdir)


@pytest.fixture
def start(tmp_path, hosts):
    """Starts a run on both hosts, and waits for a text."""
    runs = []

    def start(text):
        runs.append(Run(tmp_path / "run", processes=2, devices=4, hosts=hosts).wait_for(text))
        return runs[-1]

    yield start
    for process in (process for run in runs for process in run.processes):
        process.kill()
        process.wait()


def ended(run, process, within):
    """The one error line of a process, and after how many seconds it came."""
    began = time.monotonic()
    assert run.statuses(only=process) == 1, run.all_output()
    seconds = time.monotonic() - began
    assert seconds < within, (seconds, run.all_output())
    assert "Traceback" not in run.output[process], run.all_output()
    (line,) = [line for line in run.output[process].splitlines() if line.startswith("error: ")]
    assert line.endswith(HOW_TO_GO_ON)
    print(f"{seconds:.0f} s: {line}")
    return line


def cut_for(hosts, seconds):
    """Cuts the link of the second host for some seconds."""
    hosts.links[1] = Link(is_cut=True)
    time.sleep(seconds)
    hosts.links[1] = Link()


def test_packets_that_are_late_and_lost(tmp_path, hosts, expected):
    hosts.links[1] = Link(seconds=0.002, loss=0.001)
    Run(tmp_path / "run", processes=2, devices=4, hosts=hosts).finish()
    assert numbers(tmp_path / "run") == expected


def test_cut_for_10_seconds(tmp_path, hosts, expected, start):
    run = start(" 10/24 ")
    cut_for(hosts, seconds=10)
    run.finish()
    assert numbers(tmp_path / "run") == expected


def test_cut_for_30_seconds(tmp_path, hosts, expected, start):
    """gRPC gives a connection up after 20 s: both end, and go on when they are started again."""
    run = start(" 15/24 ")
    cut_for(hosts, seconds=30)
    assert "process 0 (host0)" in (line := ended(run, 1, within=60)) or "the run was broken up" in line
    ended(run, 0, within=140)
    Run(tmp_path / "run", processes=2, devices=4, hosts=hosts).finish()
    assert numbers(tmp_path / "run") == expected


def test_cut_for_good(tmp_path, hosts, expected, start):
    """Both end, each naming the other; one host alone goes on."""
    run = start(" 15/24 ")
    hosts.links[1] = Link(is_cut=True)
    assert "process 1 (host1) " in ended(run, 0, within=140)
    assert "process 0 (host0) " in ended(run, 1, within=30)
    Run(tmp_path / "run", devices=8).finish()
    close(numbers(tmp_path / "run"), expected)


@pytest.mark.parametrize("harmed", [0, 1])
def test_killed(tmp_path, hosts, expected, start, harmed):
    run = start(" 15/24 ")
    run.processes[harmed].kill()
    assert f"process {harmed} (host{harmed}) " in ended(run, 1 - harmed, within=140 if harmed else 30)
    Run(tmp_path / "run", processes=2, devices=4, hosts=hosts).finish()
    assert numbers(tmp_path / "run") == expected


@pytest.mark.parametrize("harmed", [0, 1])
def test_alive_but_stuck(start, harmed):
    run = start(" 15/24 ")
    run.processes[harmed].send_signal(signal.SIGSTOP)
    assert f"process {harmed} (host{harmed}) " in ended(run, 1 - harmed, within=140)


def test_sigterm_to_one_saves_on_all(tmp_path, hosts, expected, start):
    run = start(" 15/24 ")
    assert run.preempt(index=1) == [0, 0]
    shutil.copytree(tmp_path / "run", tmp_path / "alone")
    Run(tmp_path / "run", processes=2, devices=4, hosts=hosts).finish()
    assert numbers(tmp_path / "run") == expected
    Run(tmp_path / "alone", devices=8).finish()
    close(numbers(tmp_path / "alone"), expected)
