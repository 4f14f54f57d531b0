"""What a report says first: whether runs predict better than their baselines."""

import json

import pytest

from beit_jax import config as configs
from beit_jax.tasks import Report
from beit_jax.visualize import curves, findings, report, runs
from beit_jax.visualize.runs import Group


def said(*results) -> list[str]:
    return findings.sentences([Group("arm", Report("task"), "", results=list(results))])


@pytest.mark.parametrize(
    ("accuracy", "end"),
    [
        (0.1597222222222222, "always guessing the most frequent token gives 16%: it predicts no better than the most "),
        (0.1597222222222223, "always guessing the most frequent token gives 16%: it predicts no better than the most "),
        (0.1, "always guessing the most frequent token gives 16%: it predicts no better than the most "),
        (0.16, "always guessing the most frequent token gives 16%: 0.028 points above."),
        (0.2597222222222222, "always guessing the most frequent token gives 16%: 10 points above."),
    ],
)
def test_pretraining_is_compared_with_the_most_frequent_token(accuracy, end):
    (line,) = said({"mlm_acc": accuracy, "mlm_acc_majority": 0.1597222222222222})
    assert line.startswith("arm: accuracy at masked positions ") and end in line


def test_classifiers_are_compared_with_the_largest_class():
    def of(*accuracies, images=6):
        return said(*({"top1": accuracy, "majority": 0.5, "images": float(images)} for accuracy in accuracies))

    assert of(2 / 3, 0.5) == [
        "arm (mean of 2 seeds): top-1 58.3% on 6 held-out images (one image is 16.7 points), always guessing the "
        "largest class gives 50%: 8.33 points above, less than one image."
    ]
    assert of(2 / 3)[0].endswith(": 16.7 points above.")  # exactly one image
    assert of(0.5)[0].endswith(": it predicts no better than the largest class.")
    assert of(0.832, images=50_000) == [
        "arm: top-1 83.2% on 50000 held-out images (one image is 0.002 points), always guessing the largest class "
        "gives 50%: 33.2 points above."
    ]


def test_codebooks_that_collapse_are_warned_of():
    usage = {"perplexity": 9.484, "perplexity_fraction": 9.484 / 32, "codes_used": 19.0}
    assert said(usage) == ["arm: perplexity 9.5; 19 of 32 codes are used."]
    (line,) = said({"perplexity": 400.0, "perplexity_fraction": 400 / 8192, "codes_used": 900.0})
    assert "900 of 8192 codes are used. Warning: a perplexity below 5% of the codes means" in line


@pytest.mark.parametrize(
    "results", [[], [{}], [{"top1": 0.5, "majority": 0.5}], [{"mlm_acc": 0.5}], [{"perplexity": 3.0}]]
)
def test_without_the_numbers_nothing_is_said(results):
    assert said(*results) == []


def test_a_seed_that_is_not_evaluated_yet_is_left_out():
    (line,) = said({"mlm_acc": 0.3, "mlm_acc_majority": 0.1}, {})
    assert line.startswith("arm: accuracy at masked positions 30%") and line.endswith("20 points above.")


def test_page_begins_with_the_findings_and_names_the_seed_of_its_matrix(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "draw_curves", lambda *_: b"")
    stages = {f"arm_seed{seed}": configs.defaults("classify") for seed in (3, 4)}
    for seed, name in zip((3, 4), stages):
        stages[name].seed = seed
        (tmp_path / name / "tables").mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps({"step": 1, "epoch": 1.0, "loss": 1.0}) + "\n")
        (tmp_path / name / "result.json").write_text(json.dumps({"top1": 0.5, "majority": 0.5, "images": 6.0}))
        (tmp_path / name / "tables" / "confusion.csv").write_text("true class,a,b\na,3,0\nb,3,0\n")
    (tmp_path / "config.json").write_text(configs.to_json(configs.recipe(**stages)))
    report.write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.index("it predicts no better than the largest class") < page.index("<h2>Results</h2>")
    assert "<h2>arm: pictures of seed 3 alone (arm_seed3)</h2>" in page
    assert page.count("nats: the unit of") == 1
    report.write_report(tmp_path / "arm_seed4")
    assert "<h2>arm: pictures</h2>" in (tmp_path / "arm_seed4" / "report.html").read_text()


def test_units_are_explained_where_they_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "draw_curves", lambda *_: b"")
    (tmp_path / "config.json").write_text(configs.to_json(configs.defaults("pretrain_features")))
    (tmp_path / "result.json").write_text(json.dumps({"loss": 0.5}))
    report.write_report(tmp_path)
    assert [group.results for group in runs.collect_runs(tmp_path)] == [[{"loss": 0.5}]]
    assert "nats" not in (tmp_path / "report.html").read_text()
