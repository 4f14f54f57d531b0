"""Probes and what features are measured by, by the commands; heads for other classes."""

import json

import jax
import numpy as np
import pytest
from commands import command, refused
from PIL import Image

from beit_jax import evaluate, train
from beit_jax.training.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("in_the_checkout")

EVALS = ["--config.evals.kinds=knn,rankme,probe", "--config.evals.k=5"]
SHORT = ["--config.steps=6", "--config.log_every=6", "--config.save_every=6", "--config.eval_every=3"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, repository):
    """A pre-training whose features are evaluated on the way."""
    run = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.chdir(repository)
        train.main(command("pretrain", run, *EVALS, *SHORT))
    return run


def result(run):
    return json.loads((run / "result.json").read_text())


@pytest.mark.slow
def test_features_are_measured_during_pretraining(pretrained, capsys):
    lines = [line for line in read_metrics(pretrained / "metrics.jsonl") if "eval/loss" in line]
    assert [line["step"] for line in lines] == [3, 6]
    for line in lines:
        assert 0.2 < line["eval/knn_top1"] < 1  # far above a tenth, and no label is seen
        assert 0.2 < line["eval/probe_top1"] < 1
        assert {line["eval/knn_best_layer"], line["eval/probe_best_layer"]} <= {1, 2}
        assert 1 < line["eval/rankme"] == line["eval/rankme_layer02"] < 64
    assert result(pretrained)["rankme"] == lines[1]["eval/rankme"] != lines[0]["eval/rankme"]
    evaluate.main([f"--checkpoint={pretrained}"])
    assert json.loads(capsys.readouterr().out) == result(pretrained)
    page = (pretrained / "report.html").read_text()
    for curve in (
        "top-1 accuracy of nearest neighbours",
        "top-1 accuracy of logistic regression",
        "RankMe of the last",
    ):
        assert f'alt="pretrain: {curve}' in page
    assert all(f"<td>{name}</td>" in page for name in ("knn_top1", "probe_top1", "rankme", "rankme_layer01"))
    tags = b"".join(file.read_bytes() for file in (pretrained / "tensorboard").iterdir())
    assert b"eval/rankme" in tags and b"eval/probe_top1" in tags


@pytest.mark.slow
def test_probe_of_a_pretrained_encoder(pretrained, tmp_path, capsys):
    train.main(command("probe", tmp_path, f"--config.encoder.init_from={pretrained}", *SHORT))
    assert result(tmp_path)["images"] == 359
    assert {"top1_layer01", "top1_layer02", "best_layer", "knn_top1"} <= result(tmp_path).keys()
    capsys.readouterr()
    # From images in place of the features that were computed once.
    evaluate.main([f"--checkpoint={tmp_path}", "--config.batch_size=40"])
    assert json.loads(capsys.readouterr().out) == pytest.approx(result(tmp_path), rel=1e-4)


@pytest.mark.slow
def test_probe_of_an_encoder_with_other_settings(pretrained, tmp_path):
    other = [f"--config.encoder.init_from={pretrained}", "--config.model.relative_position=none"]
    message = refused(command("probe", tmp_path, *other))
    assert "encoder from" in message and "unexpected: encoder/relative_position/table" in message
    assert "init_optional" not in message  # which a probe does not heed


@pytest.mark.slow
def test_a_head_of_another_number_of_classes_is_made_anew_and_told(pretrained, tmp_path, capsys):
    first, second = tmp_path / "digits", tmp_path / "pairs"
    train.main(command("finetune", first, f"--config.init_from={pretrained}", *SHORT))
    assert "initialised anew, not there: fc_norm/bias, fc_norm/scale, head/bias, head/kernel" in capsys.readouterr().out
    for index in range(40):
        folder = tmp_path / "images" / ("cats", "dogs")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    splits = ["--config.data.split=train[:80%]", "--config.data.eval_split=train[80%:]"]
    source = [f"--config.data.source=folder:{tmp_path}/images", *splits]
    train.main(command("finetune", second, f"--config.init_from={first}", *source, *SHORT))
    told = "initialised anew, of another shape: head/bias (10,) to (2,), head/kernel (32, 10) to (32, 2)"
    assert told in capsys.readouterr().out
