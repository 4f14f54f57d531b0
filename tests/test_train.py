"""The command as users meet it: killed and started again, and given wrong things."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest
from commands import command, refused
from patience import PATIENCE_S

from beit_jax import evaluate, train
from beit_jax.runtime.checkpoint_folder import find_checkpoint
from beit_jax.training.checkpoint_manager import Checkpoints
from beit_jax.training.loggers import Logger, Status, register_logger
from beit_jax.training.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("in_the_checkout")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain", "v2", "vqkd", "kmeans_features", "features"])
def test_killed_run_continues_to_the_last_bit(tmp_path, name):
    overrides = ["--config.steps=10", "--config.log_every=1", "--config.save_every=5", "--config.eval_every=5"]
    overrides += ["--config.evals.kinds=knn,rankme,probe"] if name == "pretrain" else []
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}

    def start(workdir):
        arguments = [sys.executable, "-m", "beit_jax.train", *command(name, workdir, *overrides)]
        return subprocess.Popen(
            arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    process = start(straight)
    assert process.wait(PATIENCE_S) == 0, process.stderr.read()

    # The folder as a run leaves it that is killed after step 7 with its checkpoint of step 5 complete.
    process = start(killed)
    deadline = time.monotonic() + PATIENCE_S
    while not (killed / "checkpoints" / "5" / "_CHECKPOINT_METADATA").exists():
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shutil.rmtree(killed / "checkpoints" / "10", ignore_errors=True)
    (killed / "result.json").unlink(missing_ok=True)
    process = start(killed)
    assert process.wait(PATIENCE_S) == 0, process.stderr.read()

    def numbers(workdir):
        skip = ("examples_per_second", "input_wait")
        return [
            {name: value for name, value in line.items() if name not in skip}
            for line in read_metrics(workdir / "metrics.jsonl")
        ]

    assert numbers(killed) == numbers(straight)
    assert [line["step"] for line in numbers(straight) if "loss" in line] == list(range(1, 11))
    measured = [line["step"] for line in numbers(straight) if "eval/probe_top1" in line]
    assert measured == ([5, 10] if name == "pretrain" else [])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, repository):
    """A finished fine-tuning of 20 steps."""
    workdir = tmp_path_factory.mktemp("finished")
    with jax.numpy_dtype_promotion("standard"), pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        train.main(command("finetune", workdir))
    return workdir


def test_evaluate_gives_the_numbers_of_the_run(finished, capsys):
    evaluate.main([f"--checkpoint={finished}"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((finished / "result.json").read_text())
    assert printed["images"] == 359
    evaluate.main([f"--checkpoint={finished}/checkpoints/10", "--config.data.eval_split=train"])
    assert json.loads(capsys.readouterr().out)["images"] > 1400


@pytest.mark.slow
def test_loggers_end_after_the_checkpoints_are_saved(finished, tmp_path, monkeypatch):
    ended, close = [], Checkpoints.close
    monkeypatch.setattr(Checkpoints, "close", lambda self: (close(self), ended.append("checkpoints")))

    @register_logger("ends")
    class Ends(Logger):
        start = lambda self, run, run_id: run.name  # noqa: E731
        log_scalars = lambda self, step, values: None  # noqa: E731
        close = lambda self, status: ended.append(status)  # noqa: E731

    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "result.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "20")
    train.main(command("finetune", tmp_path, "--config.loggers=ends"))
    assert ended == ["checkpoints", Status.FINISHED]


def test_damaged_newest_checkpoint_falls_back(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "result.json").unlink()
    for file in (tmp_path / "checkpoints" / "20" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r"checkpoints/20 cannot be read .* set aside as 20.broken"):
        train.main(command("finetune", tmp_path))
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads((finished / "result.json").read_text())
    assert (tmp_path / "checkpoints" / "20.broken").is_dir()
    assert find_checkpoint(str(tmp_path)).name == "20"


def test_only_checkpoint_damaged_is_an_error_and_stays(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "result.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "10")
    shutil.rmtree(tmp_path / "checkpoints" / "20" / "state")
    assert "none of the checkpoints" in refused(command("finetune", tmp_path))
    assert (tmp_path / "checkpoints" / "20").is_dir()


@pytest.mark.slow
def test_resume_from_another_run(finished, tmp_path):
    train.main(command("finetune", tmp_path, f"--config.resume_from={finished}/checkpoints/10"))
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line] == [20]
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads((finished / "result.json").read_text())


@pytest.mark.slow
def test_resume_from_a_copy_that_lies_elsewhere(finished, tmp_path):
    shutil.copytree(finished / "checkpoints" / "10", tmp_path / "kept" / "best")
    train.main(command("finetune", tmp_path / "run", f"--config.resume_from={tmp_path}/kept/best"))
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == json.loads(
        (finished / "result.json").read_text()
    )
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["best"]


def test_workdirs_are_folders(finished):
    assert "is a URL" in refused(command("finetune", "s3://bucket/run"))
    assert "is a URL" in refused(["--checkpoint=s3://bucket/run"], evaluate)


@pytest.mark.slow
def test_result_cut_off_by_a_kill_is_made_again(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "result.json").write_text('{"loss":')
    train.main(command("finetune", tmp_path))
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads((finished / "result.json").read_text())
    steps = [[line["step"] for line in read_metrics(run / "metrics.jsonl")] for run in (tmp_path, finished)]
    assert steps[0] == steps[1]  # its evaluation stands there once


def test_unreadable_config_of_a_workdir(finished, tmp_path):
    (tmp_path / "config.json").write_text("")
    assert "config.json cannot be read" in refused(command("finetune", tmp_path))


def test_checkpoint_without_its_config(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "20" / "meta")
    assert "is damaged (meta/" in refused([f"--checkpoint={tmp_path}"], evaluate)
    (tmp_path / "checkpoints" / "20" / "checksums.json").unlink()
    assert "does not say which config made it" in refused([f"--checkpoint={tmp_path}"], evaluate)


def test_a_run_without_its_config_is_compared_with_its_checkpoint(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for name in ("config.json", "result.json"):
        (tmp_path / name).unlink()
    message = refused(command("finetune", tmp_path, "--config.optimizer.lr=0.5"))
    assert "checkpoints/20 was made with optimizer.lr=" in message and "and the config has 0.5; choose" in message


def test_a_recipe_is_no_config_of_a_checkpoint(finished):
    message = refused([f"--checkpoint={finished}", "--config=configs/quickstart.py"], evaluate)
    assert "quickstart.py is a recipe of several runs; leave it out" in message


def test_resume_from_another_model_is_one_line(finished, tmp_path):
    message = refused(
        command("finetune", tmp_path, f"--config.resume_from={finished}", "--config.model.variant=Nano/4")
    )
    assert "is of another model or optimizer" in message and "is (2, 32) there and (4, 64) here" in message


@pytest.mark.slow
def test_a_moved_recipe_is_evaluated_from_anywhere(tmp_path, monkeypatch, repository, capsys):
    monkeypatch.chdir(tmp_path)
    config = f"{repository}/configs/quickstart.py:runlocal,seeds=0"
    train.main([f"--config={config}", "--workdir=here", "--config.pretrain.steps=5", "--config.tokenizer.steps=5"])
    shutil.move(tmp_path / "here", tmp_path / "there")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    evaluate.main(["--checkpoint=../there/pretrain"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "there" / "pretrain" / "result.json").read_text())


def test_checkpoint_of_another_encoder(finished, tmp_path):
    message = refused(command("finetune", tmp_path, f"--config.init_from={finished}", "--config.model.variant=Nano/4"))
    assert "its encoder is Micro/4, and that of the config is Nano/4" in message and "variant=Micro/4" in message


def test_workdir_of_another_config(finished):
    before = (finished / "metrics.jsonl").read_bytes()
    message = refused(command("finetune", finished, "--config.seed=5"))
    assert "another config: seed is 0 there and 5 now" in message
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_loss_that_is_not_finite(tmp_path):
    message = refused(command("finetune", tmp_path, "--config.optimizer.lr=1e30", "--config.optimizer.warmup=0 steps"))
    assert "between steps 1 and 10; there is no checkpoint yet" in message


@pytest.mark.slow
def test_error_during_a_save_is_one_line_and_loses_no_checkpoint(tmp_path):
    overrides = ["--config.optimizer.lr=1e15", "--config.optimizer.warmup=0 steps", "--config.save_every=1"]
    arguments = [sys.executable, "-m", "beit_jax.train", *command("finetune", tmp_path, *overrides)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"})
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:") or "Traceback" in line]
    assert len(errors) == 1 and "is nan between" in errors[0] and "checkpoint of step" in errors[0], done.stderr
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert names and all(name.isdigit() for name in names)
