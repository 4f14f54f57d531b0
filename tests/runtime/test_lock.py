import json
import os
import signal
import subprocess
import sys
import time

import pytest
from patience import PATIENCE_S

from beit_jax.errors import UserError
from beit_jax.runtime import lock

LOCK = """
import sys, time
from pathlib import Path
from beit_jax.runtime import lock
locked = lock.lock_workdir(Path(sys.argv[1]))
locked.__enter__()
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path):
    """Another process that has locked the folder."""
    process = subprocess.Popen([sys.executable, "-c", LOCK, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_until_the_first_one_dies(tmp_path, owner):
    with pytest.raises(UserError, match=rf"is in use by process {owner.pid} on {os.uname().nodename}; wait"):
        lock.lock_workdir(tmp_path).__enter__()
    owner.kill()
    owner.wait()
    assert (tmp_path / lock.FILE).exists()
    with lock.lock_workdir(tmp_path):
        assert json.loads((tmp_path / lock.FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / lock.FILE).exists()


def test_a_run_on_another_host_is_known_by_its_heartbeat(tmp_path):
    def write_heartbeat(alive):
        (tmp_path / lock.FILE).write_text(json.dumps({"host": "elsewhere", "pid": 7, "alive": alive}))

    write_heartbeat(1.0)
    started = time.monotonic()
    with lock.lock_workdir(tmp_path, heartbeat_s=0.1):  # it is silent
        assert time.monotonic() - started >= 0.4
    write_heartbeat(1.0)
    code = "import sys, time; time.sleep(0.3); open(sys.argv[1], 'w').write(sys.argv[2])"
    newer = json.dumps({"host": "elsewhere", "pid": 7, "alive": 2.0})
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / lock.FILE), newer])
    with pytest.raises(UserError, match="in use by process 7 on elsewhere"):
        lock.lock_workdir(tmp_path, heartbeat_s=0.5).__enter__()
    writer.wait()


def test_the_owner_writes_heartbeats(tmp_path):
    def alive():
        return json.loads((tmp_path / lock.FILE).read_text() or "{}").get("alive", 0)

    with lock.lock_workdir(tmp_path, heartbeat_s=0.02):
        first, deadline = alive(), time.monotonic() + PATIENCE_S
        while alive() <= first:
            assert time.monotonic() < deadline


def test_the_folder_of_a_refused_run_is_removed(tmp_path):
    with pytest.raises(UserError, match="refused"), lock.lock_workdir(tmp_path / "run"):
        raise UserError("refused")
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        lock.lock_workdir(tmp_path / "file").__enter__()


def test_an_owner_that_was_suspended_ends_when_another_host_has_taken_over(tmp_path):
    program = LOCK.replace("Path(sys.argv[1]))", "Path(sys.argv[1]), heartbeat_s=0.1)")
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        process.send_signal(signal.SIGSTOP)
        with (tmp_path / lock.FILE).open("r+") as file:  # as the successor writes it: in place
            file.write(json.dumps({"host": "elsewhere", "pid": 7, "alive": 1.0}).ljust(lock.HEARTBEAT_BYTES))
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE_S) == 2
        assert process.stderr.read() == (
            f"error: {tmp_path} was taken over by process 7 on elsewhere, while this one did not run\n"
        )
    assert json.loads((tmp_path / lock.FILE).read_text())["pid"] == 7


def test_clocks_that_jump_do_not_matter(tmp_path, monkeypatch):
    """The owner's heartbeats go back ten years, and it lives; a clock of a silent one is far ahead, and it is dead."""
    now = time.time()
    times = iter([now, *(now - 3.15e8 + number for number in range(10**6))])
    monkeypatch.setattr(lock.time, "time", lambda: next(times))
    with lock.lock_workdir(tmp_path, heartbeat_s=0.05):
        owner = json.loads((tmp_path / lock.FILE).read_text())
        monkeypatch.setattr(lock.socket, "gethostname", lambda: "another host")
        with pytest.raises(UserError, match="is in use by process"):
            lock._wait_for_silence(tmp_path / lock.FILE, 0.5)  # as on another host
        monkeypatch.setattr(lock.socket, "gethostname", lambda: owner["host"])
    (tmp_path / lock.FILE).write_text(json.dumps(owner | {"host": "elsewhere", "alive": now + 3.15e8}))
    with lock.lock_workdir(tmp_path, heartbeat_s=0.02):
        pass


def test_a_lock_that_cannot_be_removed_hides_no_error(tmp_path):
    """As where the file system has become read-only, which the error of the run tells."""
    with pytest.raises(UserError, match="the checkpoint"), lock.lock_workdir(tmp_path):
        (tmp_path / lock.FILE).unlink()
        (tmp_path / lock.FILE).mkdir()
        raise UserError("the checkpoint of step 8 cannot be written")
