"""A task and a tokenizer that files outside the package define are trained, evaluated and reported like our own."""

import json
import os
import subprocess
import sys

import jax
import pytest

from beit_jax import cli, evaluate
from beit_jax import config as configs
from beit_jax.errors import UserError
from beit_jax.visualize import __main__ as visualize

OUTSIDE = "tests/outside"


def run(repository, module, *arguments):
    """The standard output of a command, in a process that has registered nothing yet."""
    done = subprocess.run(
        [sys.executable, "-m", f"beit_jax.{module}", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=repository,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rotation(repository, tmp_path_factory):
    """The folder of a run of a task of one's own, and what the run printed."""
    workdir = tmp_path_factory.mktemp("rotation")
    config = f"{OUTSIDE}/rotation_config.py"
    return workdir, run(repository, "train", "--config", config, "--workdir", workdir, "--config.turns=3")


def test_a_task_is_trained_and_has_its_report(rotation):
    workdir, printed = rotation
    assert "rotation" in printed and "5 steps" in printed
    assert json.loads((workdir / "config.json").read_text())["turns"] == 3
    assert 0 <= json.loads((workdir / "result.json").read_text())["right"] <= 1
    page = (workdir / "report.html").read_text()
    for words in (
        "fraction of evaluation images whose turn is recognised",
        "fraction of turns recognised",
        "images, each turned as many times as its index says",
    ):
        assert words in page
    assert (workdir / "pictures" / "turned.png").stat().st_size > 500


def test_a_task_is_evaluated(rotation, repository):
    workdir, _ = rotation
    printed = run(repository, "evaluate", "--checkpoint", workdir, "--plugin", f"{OUTSIDE}/rotation.py")
    assert json.loads(printed) == json.loads((workdir / "result.json").read_text())


@pytest.mark.usefixtures("in_the_checkout")
def test_a_task_that_is_not_registered_is_named(rotation):
    """Here, in another process than the run's, nobody has registered it."""
    workdir, _ = rotation
    message = r"the task 'rotation' is unknown; expected one of tokenizer, .*--plugin=FILE"
    with pytest.raises(UserError, match=message) as e:
        evaluate.main([f"--checkpoint={workdir}"])
    assert "\n" not in str(e.value)


def test_a_run_of_an_unknown_task_has_the_default_report(rotation, tmp_path, capsys):
    workdir, _ = rotation
    visualize.main(["report", str(workdir), f"--out={tmp_path}/report.html"])
    page = (tmp_path / "report.html").read_text()
    assert "turned" in page and "fraction of turns recognised" not in page
    assert "right" in capsys.readouterr().out


def test_keys_of_a_task_are_checked_and_listed(repository, capsys, monkeypatch, registries):
    monkeypatch.chdir(repository)
    config = configs.load(f"{OUTSIDE}/rotation_config.py")
    configs.validate(config)
    config.turns = 5
    with pytest.raises(UserError, match="turns=5; expected at least 2 and at most 4"):
        configs.validate(config)
    parser = cli.config_parser("beit_jax.train", "help", "configs/x.py")
    with pytest.raises(SystemExit):
        cli.parse_with_config(parser, ["--help", f"--config={OUTSIDE}/rotation_config.py"])
    printed = capsys.readouterr().out
    assert (
        "--config.turns=4\n      number of quarter-turn rotations to tell apart [at least 2 and at most 4]" in printed
    )


@pytest.mark.slow
def test_a_tokenizer_is_trained_and_pretrained_on(repository, tmp_path, capsys, monkeypatch, registries):
    config = f"{OUTSIDE}/patches_config.py"
    run(repository, "train", "--config", config, "--workdir", tmp_path)
    results = {name: json.loads((tmp_path / name / "result.json").read_text()) for name in ("tokenizer", "pretrain")}
    assert results["tokenizer"]["codes_used"] > 1 and 0 <= results["pretrain"]["mlm_acc"] <= 1
    page = (tmp_path / "report.html").read_text()
    assert "codebook perplexity" in page and "masked-token accuracy" in page
    for picture in ("tokenizer/pictures/reconstruction.png", "pretrain/pictures/prediction.png"):
        assert (tmp_path / picture).stat().st_size > 500
    monkeypatch.chdir(repository)
    with jax.numpy_dtype_promotion("standard"):
        evaluate.main([f"--checkpoint={tmp_path}/pretrain", f"--plugin={OUTSIDE}/patches.py"])
    assert json.loads(capsys.readouterr().out) == pytest.approx(results["pretrain"], rel=1e-5)


def test_an_operation_of_a_plugin(tmp_path):
    from beit_jax.data import pipeline

    (tmp_path / "upside_down.py").write_text(
        "from beit_jax.data.ops.registry import register\n"
        "@register('example')\n"
        "def upside_down():\n"
        "    return lambda features, seed: {**features, 'image': features['image'][::-1]}\n"
    )
    cli.config_parser("beit_jax.train", "help", "x").parse_known_args([f"--plugin={tmp_path}/upside_down.py"])
    data = configs.defaults("classify").data
    data.source = "digits"
    found = pipeline.spec(data, "train", "decode|upside_down|resize(8)|keep('image')")
    assert found["image"][0] == (1, 8, 8, 3)
