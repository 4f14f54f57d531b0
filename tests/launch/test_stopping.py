"""Runs that a scheduler preempts, also in a job of Slurm, whose programs are replaced."""

import os
import signal

import pytest
from patience import PATIENCE_S

SRUN = 'shift 3; exec env BEIT_JAX_PROCESS_INDEX=0 "$@"'  # without srun's three flags


@pytest.mark.parametrize(("argument", "status"), [("0=0", 0), ("0=2", 2), ("0=134", 134)])
def test_the_status_is_that_of_the_command(launch, argument, status):
    assert launch("restartable.sh", "python", "-m", "fake_trainer", argument).returncode == status


def test_a_preempted_run_that_saved_is_restarted(start):
    process = start("restartable.sh", "python", "-m", "fake_trainer", "on")
    assert '"on"' in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 42
    assert process.stdout.read() == "saved after signal 15\n"


def test_a_failure_while_saving_keeps_its_status(start):
    process = start("restartable.sh", "bash", "-c", "trap 'exit 5' TERM; echo on; while :; do sleep 0.1; done")
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 5


@pytest.fixture
def job(tmp_path, program, environment):
    """Replaces Slurm's programs by scripts that log their arguments; returns a function that reads the log."""
    log = tmp_path / "log"
    program("srun", f'echo "srun $*" >>{log}; echo $$ >{tmp_path}/step; {SRUN}')
    program("scancel", f'echo "scancel $*" >>{log}; kill -s "$2" "$(cat {tmp_path}/step)"')
    program("squeue", f'echo "squeue $*" >>{log}; cat {tmp_path}/state')
    program("scontrol", f'echo "scontrol $*" >>{log}')
    environment |= {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_RESTART_COUNT": "2"}
    return lambda: log.read_text().splitlines()


def test_a_finished_job_is_not_queued_again(launch, job):
    done = launch("slurm.sbatch", "python", "-m", "fake_trainer", "0=0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("job 17, start 3, on node[1-2]\n")
    assert job() == ["srun --label --kill-on-bad-exit=0 --wait=300 launch/restartable.sh python -m fake_trainer 0=0"]


def test_a_failed_job_is_not_queued_again(launch, job):
    assert launch("slurm.sbatch", "python", "-m", "fake_trainer", "0=2").returncode == 2
    assert len(job()) == 1


def begin(tmp_path, start, state, *command):
    (tmp_path / "state").write_text(f"{state}\n")
    process = start("slurm.sbatch", *command)
    assert process.stdout.readline().startswith("job 17")
    assert "on" in process.stdout.readline()
    return process


TRAIN = ("python", "-m", "fake_trainer", "on")
SQUEUE = "squeue --noheader --format %T --jobs 17"


def test_a_job_near_its_time_limit_is_queued_again(tmp_path, start, job):
    process = begin(tmp_path, start, "RUNNING", *TRAIN)
    process.send_signal(signal.SIGTERM)  # --signal=B: to the batch script only
    assert process.wait(PATIENCE_S) == 42
    assert process.stdout.read() == "saved after signal 15\n"
    assert job()[1:] == ["scancel --signal TERM 17", SQUEUE, "scontrol requeue 17"]


def test_a_job_that_cannot_save_near_its_time_limit_is_queued_again(tmp_path, start, job):
    process = begin(
        tmp_path, start, "RUNNING", "bash", "-c", "trap 'exit 5' TERM; echo on; while :; do sleep 0.1; done"
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 5
    assert job()[1:] == ["scancel --signal TERM 17", SQUEUE, "scontrol requeue 17"]


@pytest.mark.parametrize(
    ("state", "requeued"),
    [("RUNNING", True), ("PENDING", False), ("COMPLETING", False), ("CANCELLED", False)],
    ids=["preempted, within the grace time", "preempted", "preempted, late", "cancelled"],
)
def test_a_job_whose_processes_receive_sigterm(tmp_path, start, job, state, requeued):
    process = begin(tmp_path, start, state, *TRAIN)
    os.kill(int((tmp_path / "step").read_text()), signal.SIGTERM)  # to the step only
    assert process.wait(PATIENCE_S) == 42
    assert process.stdout.read() == "saved after signal 15\n"
    assert job()[1:] == [SQUEUE, *(["scontrol requeue 17"] if requeued else [])]


def test_directives_of_the_job(repository):
    text = (repository / "launch" / "slurm.sbatch").read_text()
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert directives == ["#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=B:TERM@120"]
    assert text.index("#SBATCH") < text.index("set -euo")  # Slurm reads them up to the first command
