"""Members of a sweep: their names, their commands, and how they run."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest
from buckets import object_store
from patience import PATIENCE_S

from beit_jax.errors import UserError
from beit_jax.runtime import membership
from beit_jax.workdir import RESULT

SWEEP = """
from beit_jax.config import load, recipe

def get_config(arg=""):
    config = load("configs/tokenizer.py:runlocal")
    return recipe(first=config, second=config) if arg == "stages" else config

def get_sweep(arg=""):
{body}
"""
LOSSES = "    for kl in (0.5, 6.6):\n        yield {'loss.kl_weight': kl, 'seed': 1}"


@pytest.fixture
def config(tmp_path):
    """A function that writes a config file whose get_sweep has the given body."""

    def write(body=LOSSES):
        file = tmp_path / "config.py"
        file.write_text(SWEEP.format(body=body))
        return str(file)

    return write


@pytest.fixture
def command(repository, environment):
    """A function that returns the command line of a sweep."""
    environment["PYTHONPATH"] += f":{repository}"

    def build(path, workdir, *more):
        return [
            sys.executable,
            str(repository / "launch" / "sweep.py"),
            f"--config={path}",
            f"--workdir={workdir}",
            *more,
        ]

    return build


@pytest.fixture
def sweep(tmp_path, command, repository, environment):
    """A function that runs a sweep to its end."""

    def run(path, *more, workdir=tmp_path / "sweep"):
        return subprocess.run(
            command(path, workdir, *more), capture_output=True, text=True, cwd=repository, env=environment, timeout=60
        )

    return run


@pytest.fixture
def printed_by(repository, tmp_path, monkeypatch, capsys):
    """A function that returns what a sweep prints; it runs in this process, and no member runs."""
    spec = importlib.util.spec_from_file_location("launch_sweep", repository / "launch" / "sweep.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.chdir(repository)
    monkeypatch.setattr(membership, "_alone", False)  # which the sweep sets: restored for other tests

    def call(path, *more, workdir=tmp_path / "sweep"):
        module.main([f"--config={path}", f"--workdir={workdir}", *more])
        return capsys.readouterr().out

    return call


@pytest.fixture
def trainer(program, tmp_path):
    """Replaces a launcher: it logs its arguments and writes a result. Returns a function that reads the log."""
    program(
        "trainer",
        f"""echo "$@" >>{tmp_path}/calls
for word; do case "$word" in --workdir=*) folder=${{word#*=}} ;; esac; done
case "$folder" in *kl_weight=0.5*) exit "${{STATUS:-0}}" ;; esac
mkdir -p "$folder" && echo '{{}}' >"$folder/result.json" """,
    )
    return lambda: (tmp_path / "calls").read_text().splitlines()


def test_dry_run(printed_by, config, tmp_path):
    python, folder = f"{sys.executable} -m beit_jax.train --config={tmp_path}/config.py", f"{tmp_path}/sweep"
    assert printed_by(config(), "--dry-run") == (
        f"{python} --workdir={folder}/loss.kl_weight=0.5,seed=1 --config.loss.kl_weight=0.5 --config.seed=1\n"
        f"{python} --workdir={folder}/loss.kl_weight=6.6,seed=1 --config.loss.kl_weight=6.6 --config.seed=1\n"
    )
    assert not (tmp_path / "sweep").exists()
    (tmp_path / "task.py").write_text("")
    printed = printed_by(config(), "--dry-run", f"--plugin={tmp_path}/task.py")
    assert printed.startswith(f"{sys.executable} -m beit_jax.train --plugin={tmp_path}/task.py --config=")


def test_dry_run_through_a_launcher(printed_by, config, tmp_path):
    body = "    yield {'arg': 'x/y'}\n    yield {'optimizer.min_lr': 0.5, 'data.data_dir': 'a|b(1, 2)'}\n    yield {}"
    prefix, folder = f"launch/slurm.sh --name 'a b' -- --config={tmp_path}/config.py", f"{tmp_path}/sweep"
    assert printed_by(config(body) + ":z", "--dry-run", "--via", "launch/slurm.sh --name 'a b' --") == (
        f"{prefix}:z,x/y --workdir={folder}/arg=x_y\n"
        f"{prefix}:z --workdir={folder}/optimizer.min_lr=0.5,data.data_dir=a_b_1,_2_ --config.optimizer.min_lr=0.5 "
        "'--config.data.data_dir=a|b(1, 2)'\n"
        f"{prefix}:z --workdir={folder}/base\n"
    )


def test_members_run_in_order_and_finished_ones_are_skipped(sweep, config, trainer):
    done = sweep(config(), "--via", "trainer")
    assert done.returncode == 0, done.stderr
    assert ["kl_weight=0.5" in call for call in trainer()] == [True, False]
    assert sweep(config(), "--via", "trainer").returncode == 0
    assert len(trainer()) == 3 and "kl_weight=0.5" in trainer()[2]  # the one without a result


ON_DEVICES = """
import jax
from beit_jax.config import load
from beit_jax.machine import find_machine

def get_config(arg=""):
    print(find_machine().kind, jax.default_backend())
    return load("configs/tokenizer.py:runlocal")

def get_sweep(arg=""):
    yield {"seed": 1}
"""


def test_the_sweep_takes_no_accelerator_and_waits_for_nobody(sweep, program, environment, tmp_path):
    """Also where its environment says that it is one of two processes on GPUs, as that of its members does."""
    environment |= {"JAX_PLATFORMS": "cuda", "BEIT_JAX_COORDINATOR": "127.0.0.1:1", "BEIT_JAX_PROCESS_COUNT": "2"}
    environment["BEIT_JAX_PROCESS_INDEX"] = "1"
    program("member", "echo member on $JAX_PLATFORMS $BEIT_JAX_PROCESS_COUNT")
    (tmp_path / "config.py").write_text(ON_DEVICES)
    done = sweep(tmp_path / "config.py", "--via", "member")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cpu cpu\n") and done.stdout.endswith("member on cuda 2\n")


def test_members_after_a_failure_run(sweep, config, trainer, environment):
    environment["STATUS"] = "5"
    done = sweep(config(), "--via", "trainer")
    assert done.returncode == 5
    assert done.stderr == "loss.kl_weight=0.5,seed=1: ended with status 5\n"
    assert len(trainer()) == 2


def test_a_recipe_is_finished_when_its_last_stage_is(printed_by, config, tmp_path):
    path = config("    yield {'first.seed': 3}") + ":stages"
    for stage, left in (("first", 1), ("second", 0)):
        result = tmp_path / "sweep" / "first.seed=3" / stage / "result.json"
        result.parent.mkdir(parents=True)
        result.write_text("{}")
        assert printed_by(path, "--dry-run").count("\n") == left


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_member_and_end_the_sweep(config, command, repository, environment, tmp_path, number):
    process = subprocess.Popen(
        command(config(), tmp_path / "sweep", "--via", f"{sys.executable} -m fake_trainer"),
        stdout=subprocess.PIPE,
        text=True,
        cwd=repository,
        env=environment,
    )
    assert process.stdout.readline().startswith("loss.kl_weight=0.5,seed=1: ")
    assert json.loads(process.stdout.readline())["argv"][-1] == "--config.seed=1"
    os.kill(process.pid, number)
    rest = process.communicate(timeout=PATIENCE_S)[0]
    assert (process.returncode, rest) == (0, f"saved after signal {number.value}\n")


@pytest.mark.parametrize(
    ("body", "more", "message"),
    [
        ("    yield {'loss.kl_wait': 1}", [], "member loss.kl_wait=1: unknown config key"),
        ("    yield {'batch_size': -1}", [], "member batch_size=-1: batch_size"),
        ("    yield {'seed': 1}\n    yield {'seed': 1}", [], "{config}: two members of the sweep are called seed=1"),
        ("    yield from ()", [], "{config}: get_sweep yields nothing"),
        (LOSSES, ["--via", "'"], "--via=': No closing quotation"),
        (LOSSES, ["--wokdir=x"], "there is no flag --wokdir; did you mean --workdir?"),
    ],
)
def test_wrong_input(printed_by, config, tmp_path, body, more, message):
    path = config(body)
    with pytest.raises(UserError) as error:
        printed_by(path, *more)
    assert str(error.value).startswith(message.format(config=path)) and "\n" not in str(error.value)
    assert not (tmp_path / "sweep").exists()


def test_configs_without_a_sweep_and_workdirs_that_are_urls(printed_by, config):
    with pytest.raises(UserError, match="defines no get_sweep"):
        printed_by("configs/finetune.py", "--dry-run")
    with pytest.raises(UserError, match="is a URL"):
        printed_by(config(), "--dry-run", workdir="s3://bucket/sweep")


def test_a_workdir_in_a_bucket(sweep, config, environment):
    with object_store.serve("beit") as store:
        environment |= store.environment()
        result = f"name=sweep/loss.kl_weight=0.5,seed=1/{RESULT}"
        upload = f"{store.address}/upload/storage/v1/b/beit/o?uploadType=media&{result}"
        urllib.request.urlopen(urllib.request.Request(upload, b"{}", method="POST")).close()
        done = sweep(config(), "--dry-run", workdir="gs://beit/sweep")
    assert done.returncode == 0, done.stderr
    (member,) = done.stdout.splitlines()  # the other one has ended
    assert "--workdir=gs://beit/sweep/loss.kl_weight=6.6,seed=1 " in member


def test_a_mistake_is_one_line_and_status_2(sweep, config):
    done = sweep(config(), "--via", "no_such_launcher --")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: no_such_launcher cannot be run: ")


def test_example(printed_by):
    printed = printed_by("launch/example_sweep.py:runlocal", "--dry-run")
    assert printed.count("--config.optimizer.layer_decay=0.75") == 3 and printed.count("\n") == 6
