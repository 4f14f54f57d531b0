"""The commands for TPU workers, run here by a replaced gcloud in a folder that stands for a worker's home."""

import os
import subprocess
import sys
import tarfile

import pytest

FLAGS = ("--name", "beit", "--zone", "us-central2-b")
SSH = 'for word; do command=$word; done; cd "$HOME"; exec bash -c "$command"'  # --command is the last flag


@pytest.fixture
def home(tmp_path, environment, program):
    """The home of a worker after sync."""
    folder = tmp_path / "home"
    (folder / "beit_jax").mkdir(parents=True)
    (folder / "beit_jax_venv" / "bin").mkdir(parents=True)
    (folder / "beit_jax_venv" / "bin" / "python").symlink_to(sys.executable)
    environment["HOME"] = str(folder)
    program("gcloud", SSH)
    return folder


def test_run_is_detached_logged_and_stopped(launch, home, wait_for):
    done = launch("tpu_vm.sh", "run", *FLAGS, "--module", "fake_trainer", "--", "it's", "a b")
    assert done.returncode == 0, done.stderr  # it returned: the run does not need the connection
    log = home / "beit_jax.log"
    wait_for(lambda: log.exists() and log.read_text())
    assert '"argv": ["it\'s", "a b"]' in log.read_text()
    pid = int((home / "beit_jax.pid").read_text())
    assert os.getsid(pid) == pid  # the run outlives the connection

    again = launch("tpu_vm.sh", "run", *FLAGS, "--module", "fake_trainer", "--", "x")
    assert (again.returncode, again.stderr) == (1, "a run is in progress here; stop it first\n")

    assert launch("tpu_vm.sh", "stop", *FLAGS).returncode == 0
    assert log.read_text().endswith("saved after signal 15\n")
    assert launch("tpu_vm.sh", "run", *FLAGS, "--module", "fake_trainer", "--", "0=0").returncode == 0
    wait_for(lambda: log.read_text().count("argv") == 2)  # continued in the same log


def test_wait(launch, program, tmp_path):
    for name, state in enumerate(["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]):
        (tmp_path / str(name)).write_text(state)
    program("gcloud", f"cd {tmp_path}; cat $(cat count)")
    program("sleep", f'cd {tmp_path}; echo "$1" >>slept; echo $(($(cat count) + 1)) >next; mv next count')
    (tmp_path / "count").write_text("0")
    done = launch("tpu_vm.sh", "wait", *FLAGS)
    assert (done.returncode, done.stdout.split()) == (0, ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    assert (tmp_path / "slept").read_text() == "30\n30\n"


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_wait_for_machines_that_will_not_come(launch, program, state):
    program("gcloud", f"echo {state}")
    done = launch("tpu_vm.sh", "wait", *FLAGS)
    assert (done.returncode, done.stderr) == (1, f"error: beit is {state}; delete it, and create it again\n")


def test_wait_fails_with_gcloud(launch, program):
    program("gcloud", "echo 'not found' >&2; exit 4")
    assert launch("tpu_vm.sh", "wait", *FLAGS).returncode == 4


def test_sync_takes_the_tracked_files_as_they_are_now(launch, repository, tmp_path, home, program):
    checkout = tmp_path / "checkout"
    (checkout / "launch").mkdir(parents=True)

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=checkout, check=True, capture_output=True)

    for name in ("common.sh", "tpu_vm.sh"):
        (checkout / "launch" / name).write_bytes((repository / "launch" / name).read_bytes())
    (checkout / "changed").write_text("old")
    (checkout / "deleted").write_text("old")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    git("config", "user.name", "a")
    git("config", "user.email", "a@b")
    (checkout / "changed").write_text("new")
    (checkout / "deleted").unlink()
    (checkout / "secret").write_text("untracked")

    for name in ("beit_jax/stale", "beit_jax/runs/checkpoint"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text("here before")
    program("gcloud", f'if [ "$4" = scp ]; then cp build/beit_jax.tar.gz "$HOME"; else {SSH}; fi')
    (home / ".local" / "bin").mkdir(parents=True)
    program("python3", "exit 0")
    program("uv", 'echo "uv $*" >>"$HOME/uv.log"')
    (home / ".local" / "bin" / "uv").symlink_to(tmp_path / "bin" / "uv")

    done = launch("tpu_vm.sh", "sync", *FLAGS, cwd=checkout)
    assert done.returncode == 0, done.stderr
    with tarfile.open(checkout / "build" / "beit_jax.tar.gz") as archive:
        assert {item.name for item in archive if item.isfile()} == {"changed", "launch/common.sh", "launch/tpu_vm.sh"}
    files = {str(path.relative_to(home / "beit_jax")) for path in (home / "beit_jax").rglob("*") if path.is_file()}
    assert files == {"changed", "launch/common.sh", "launch/tpu_vm.sh", "runs/checkpoint"}
    assert (home / "beit_jax" / "changed").read_text() == "new"
    assert "--python ./beit_jax_venv --editable ./beit_jax[data,gcs,tpu]" in (home / "uv.log").read_text()
    assert (checkout / "changed").read_text() == "new"  # the checkout is as before
    assert not (checkout / "deleted").exists()
