"""Every config runs in its smallest form, and recipes from stage to stage."""

import jax
import pytest

from beit_jax import train
from beit_jax.training.metrics import read_metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "some"),  # stages of each kind
    [
        ("transfer:runlocal", ("intermediate", "finetune")),
        ("label_efficiency:runlocal", ("from_beit_1pct_seed0",)),
        ("digits:runlocal,seeds=1", ("scratch_1_labels_seed0", "probe_random_seed0")),
        ("digit_scenes:runlocal,seeds=1", ("scenes_scratch_seed0",)),
    ],
)
def test_recipes_run(repository, tmp_path, capsys, name, some):
    file, _, arguments = name.partition(":")
    command = [f"--config={repository}/configs/{file}.py:{arguments}", f"--workdir={tmp_path}"]
    with jax.numpy_dtype_promotion("standard"):
        train.main([*command, f"--config.stages={some}"])
    assert all((tmp_path / stage / "result.json").exists() for stage in some)
    if file == "transfer":  # the head of as many classes is taken over
        assert "initialised anew" not in capsys.readouterr().out
    if file == "label_efficiency":
        assert (tmp_path / "curve_classify_1_of_the_labels_top1.png").exists()


CONFIGS = (
    "pretrain:",
    "tokenizer:",
    "pretrain:fast,",
    "finetune:",
    "probe:",
    "segment:head=upernet,",
    "segment:head=setr_pup,",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_runlocal_runs(repository, tmp_path, name):
    file, _, arguments = name.partition(":")
    with jax.numpy_dtype_promotion("standard"):
        fewer = ["--config.steps=6", "--config.log_every=3", "--config.save_every=3"]
        train.main([f"--config={repository}/configs/{file}.py:{arguments}runlocal", f"--workdir={tmp_path}", *fewer])
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [3, 6]
    assert (tmp_path / "report.html").exists()
    if file == "segment":
        assert (tmp_path / "pictures" / "segmentation.png").exists()


@pytest.mark.slow
def test_quick_start_path_skips_what_is_finished(repository, tmp_path, capsys):
    command = [f"--config={repository}/configs/quickstart.py:runlocal,seeds=1", f"--workdir={tmp_path}"]
    with jax.numpy_dtype_promotion("standard"):
        train.main(command)
    first = capsys.readouterr().out
    train.main(command)
    second = capsys.readouterr().out
    stage_names = ("tokenizer", "pretrain", "from_beit_seed0", "from_scratch_seed0")
    assert all(f"{name}: finished before, skipped" in second for name in stage_names)
    table = first[first.rindex("stage  ") :]  # the last one: the first is the plan
    assert table == second[second.rindex("stage  ") :]
    assert "starting from the parameters of" in first
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 10 and 'src="http' not in page
    for picture in ("tokenizer/pictures/reconstruction.png", "pretrain/pictures/masked.png"):
        assert (tmp_path / picture).stat().st_size > 500
