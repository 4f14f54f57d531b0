"""Several real processes: their environment, failures and signals."""

import json
import os
import signal

import pytest
from patience import PATIENCE_S


def read_log(logs, index):
    file = logs / f"process{index}.log"
    return file.read_text() if file.exists() else ""


def local(logs, *arguments, flags=()):
    return ("local.sh", "--processes", "2", "--logs", str(logs), "--module", "fake_trainer", *flags, "--", *arguments)


def both_run(logs):
    return lambda: all(read_log(logs, index).count("\n") for index in (0, 1))


def test_each_process_has_its_environment(tmp_path, launch):
    done = launch(*local(tmp_path, "0=0", "1=0", "a b", flags=["--gpus-per-process", "2"]))
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(read_log(tmp_path, index)) for index in (0, 1))
    assert first["argv"] == second["argv"] == ["0=0", "1=0", "a b"]
    assert (first["BEIT_JAX_PROCESS_INDEX"], second["BEIT_JAX_PROCESS_INDEX"]) == ("0", "1")
    assert first["BEIT_JAX_PROCESS_COUNT"] == second["BEIT_JAX_PROCESS_COUNT"] == "2"
    assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("0,1", "2,3")
    assert first["BEIT_JAX_COORDINATOR"] == second["BEIT_JAX_COORDINATOR"]
    host, port = first["BEIT_JAX_COORDINATOR"].split(":")
    assert host == "127.0.0.1" and 1023 < int(port) < 65536
    assert read_log(tmp_path, 0) in done.stdout  # the first process is shown


def test_a_continued_run_appends_to_its_logs(tmp_path, launch):
    for _ in range(2):
        assert launch(*local(tmp_path, "0=0", "1=0")).returncode == 0
    assert read_log(tmp_path, 1).count("\n") == 2


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_stops_the_others(tmp_path, launch, failing):
    done = launch(*local(tmp_path, f"{failing}=7"))
    assert done.returncode == 7
    assert f"process {failing} ended with status 7" in done.stderr
    assert f'"{failing}=7"' in done.stderr  # the end of its log
    assert "saved after signal 15" in read_log(tmp_path, 1 - failing)


def test_a_process_that_ignores_sigterm_is_killed_after_a_failure(tmp_path, launch):
    done = launch(*local(tmp_path, "0=3", "1=deaf", flags=["--grace", "1"]))
    assert done.returncode == 3, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_forwarded_to_all(tmp_path, start, wait_for, number):
    process = start(*local(tmp_path, "on"))
    wait_for(both_run(tmp_path))
    os.kill(process.pid, number)
    assert process.wait(PATIENCE_S) == 0
    for index in (0, 1):
        assert f"saved after signal {number.value}" in read_log(tmp_path, index)


def test_a_killed_process_is_a_failure(tmp_path, start, wait_for):
    process = start(*local(tmp_path, "on"))
    wait_for(both_run(tmp_path))
    children = os.popen(f"ps -o pid=,args= --ppid {process.pid}").read().splitlines()
    victim = next(int(line.split()[0]) for line in children if "fake_trainer" in line)
    os.kill(victim, signal.SIGKILL)
    assert process.wait(PATIENCE_S) == 128 + signal.SIGKILL
