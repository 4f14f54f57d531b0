import json
import os
import subprocess
import sys
import time

import pytest

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
        first, deadline = alive(), time.monotonic() + 10
        while alive() <= first:
            assert time.monotonic() < deadline


def test_the_folder_of_a_refused_run_is_removed(tmp_path):
    with pytest.raises(UserError, match="refused"), lock.lock_workdir(tmp_path / "run"):
        raise UserError("refused")
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        lock.lock_workdir(tmp_path / "file").__enter__()
