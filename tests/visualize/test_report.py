"""Reports of workdirs that are written here, so that what the page must say is known."""

import base64
import html.parser
import io
import json
import re

import browser
import pytest
from ml_collections import ConfigDict
from PIL import Image

from beit_jax import config as configs
from beit_jax import train
from beit_jax.errors import UserError
from beit_jax.tasks import Report
from beit_jax.visualize import __main__ as visualize
from beit_jax.visualize import curves, markdown, report, runs

VOID = {"meta", "link", "img", "br"}


class Reader(html.parser.HTMLParser):
    """Collects what a page holds, and refuses tags that are not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.addresses, self.images, self.rows, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert len(given) == len(attributes) and not any(name.startswith("on") for name in given)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
        if tag == "img":
            self.images.append(given)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += text


def config_of(task: str, **keys) -> ConfigDict:
    config = configs.defaults(task)
    config.steps, config.batch_size = 40, 8
    config.update(keys)
    return config


def write_run(folder, accuracy: float, *, steps: int = 40, finished: bool = True) -> None:
    """A log of 10 to `steps`, 4 steps an epoch, evaluated every 20; each image takes 10 ms, with a pause of input."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(10, steps + 1, 10):
        speed = {"learning_rate": 1e-3, "grad_norm": 1.5, "examples_per_second": 100.0, "input_wait": 0.25}
        lines.append({"step": step, "epoch": step / 4, "loss": 2 - step / 40, "top1": accuracy, **speed})
        if step % 20 == 0:
            lines.append({"step": step, "epoch": step / 4, "eval/loss": 1.0, "eval/top1": accuracy * step / 40})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5')
    if finished:
        (folder / "result.json").write_text(json.dumps({"loss": 1.0, "top1": accuracy}))


def write_config(folder, config) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(configs.to_json(config))


def write_pictures(folder, *names) -> None:
    (folder / "pictures").mkdir()
    for name in names:
        Image.new("RGB", (4, 4)).save(folder / "pictures" / f"{name}.png")


@pytest.fixture
def drawn(monkeypatch):
    """Curves are not drawn, which takes most of the time of a report, but listed."""
    target, calls = io.BytesIO(), []
    Image.new("RGB", (4, 4)).save(target, "png")
    monkeypatch.setattr(curves, "draw_curves", lambda *arguments: calls.append(arguments) or target.getvalue())
    return calls


@pytest.fixture
def recipe(tmp_path):
    """Two seeds of one arm that are finished, one arm that is half-way, and a stage that has not begun."""
    stages = {f"arm_seed{seed}": config_of("classify", seed=seed) for seed in (0, 1)}
    stages |= {"scratch_seed0": config_of("classify"), "later": config_of("tokenizer")}
    workdir = tmp_path / "a <recipe> & more"
    write_config(workdir, configs.recipe(**stages))
    write_run(workdir / "arm_seed0", 0.5)
    write_run(workdir / "arm_seed1", 0.75)
    write_run(workdir / "scratch_seed0", 0.25, steps=20, finished=False)
    write_pictures(workdir / "arm_seed0", "class_activation")
    return workdir


def test_page_says_what_the_runs_did(recipe):
    text = report.write_report(recipe)
    assert re.search(r"^arm +top1 +0.625 +0.1768 +0.5 0.75$", text, re.MULTILINE)
    assert re.search(r"^scratch +top1 +0.125$", text, re.MULTILINE)  # the last evaluation of a run that goes on
    read = Reader((recipe / "report.html").read_text())
    words = "".join(read.words)
    assert "scratch: at step 20 of 40" in words and "arm: at step" not in words and "later" not in words
    assert [row[:5] for row in read.rows if row[:2] == ["arm", "top1"]] == [
        ["arm", "top1", "0.625", "0.1768", "0.5 0.75"]
    ]
    # 8 images of 10 ms a step; two seeds of 40 steps of 80 ms
    assert ["arm", "8", "100", "80", "25%", "0.1"] in read.rows
    assert [row for row in read.rows if row[0] == "steps"] == [["steps", "40", "0"]] * 2
    assert ["image_size", "224"] not in [row[:2] for row in read.rows]  # as in the defaults: in the folded part only
    captions = [image["alt"] for image in read.images]
    assert captions[:3] == ["class activation", "classify: nats per image", "classify: top-1 accuracy"]
    assert len(captions) == 7
    for image in read.images:
        Image.open(io.BytesIO(base64.b64decode(image["src"].removeprefix("data:image/png;base64,")))).verify()
    assert sorted(file.name for file in recipe.glob("*.png")) == [
        "curve_classify_loss.png",
        "curve_classify_top1.png",
    ]


def test_pictures_have_the_captions_and_the_order_of_their_task(tmp_path, drawn):
    write_config(tmp_path, config_of("pretrain"))
    write_run(tmp_path, 0.5)
    write_pictures(tmp_path, "masked", "another", "original")
    report.write_report(tmp_path)
    captions = [image["alt"] for image in Reader((tmp_path / "report.html").read_text()).images]
    assert captions[:3] == ["held-out images", "what BEiT sees", "another"]


def test_page_needs_nothing_else(recipe, drawn):
    text = (report.write_report(recipe), (recipe / "report.html").read_text())[1]
    assert all(address.startswith("data:") for address in Reader(text).addresses)
    assert not re.search(r"<script|@import|@font-face|url\(|https?:", re.sub(r"base64,[\w+/=]+", "", text))
    assert "<title>beit_jax: a &lt;recipe&gt; &amp; more</title>" in text
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text


def test_several_workdirs_share_panels(tmp_path, drawn):
    for name, accuracy in {"small_seed0": 0.5, "small_seed1": 0.25, "large": 1.0}.items():
        write_config(tmp_path / name, config_of("classify"))
        write_run(tmp_path / name, accuracy)
    report.write_report(*(tmp_path / name for name in ("small_seed0", "small_seed1", "large")))
    by_title = {title: (solid, dashed) for title, solid, _, dashed in drawn}
    solid, dashed = by_title["classify: top-1 accuracy"]
    assert solid == {
        "small: classify": [[(5.0, 0.25), (10.0, 0.5)], [(5.0, 0.125), (10.0, 0.25)]],
        "large: classify": [[(5.0, 0.5), (10.0, 1.0)]],
    }
    assert dashed["large: classify"] == [[(2.5, 1.0), (5.0, 1.0), (7.5, 1.0), (10.0, 1.0)]]
    assert by_title["classify: images per second"][0].keys() == solid.keys()
    assert (tmp_path / "report.html").is_file() and not list(tmp_path.glob("*.png"))


def test_seeds_of_a_sweep_are_one_group(tmp_path):
    names = ("optimizer.lr=0.1,seed=0", "optimizer.lr=0.1,seed=1", "optimizer.lr=0.2,seed=0")
    for name in names:
        write_config(tmp_path / name, config_of("classify"))
        write_run(tmp_path / name, 0.5)
    groups = runs.collect_runs(*(tmp_path / name for name in names))
    assert [(group.name, len(group.runs)) for group in groups] == [
        ("optimizer.lr=0.1: classify", 2),
        ("optimizer.lr=0.2: classify", 1),
    ]


def test_only_finished_runs_are_collected_for_tables(recipe):
    assert [group.name for group in runs.collect_runs(recipe)] == ["arm"]


@pytest.mark.parametrize("steps", [0, 10])
def test_a_run_that_was_not_evaluated_yet(tmp_path, steps, drawn):
    write_config(tmp_path, config_of("pretrain", steps=0, epochs=10.0))
    write_run(tmp_path, 0.5, steps=steps, finished=False)
    report.write_report(tmp_path)
    words = "".join(Reader((tmp_path / "report.html").read_text()).words)
    assert ("pretrain: at step 10 of 40" if steps else "Nothing is logged yet.") in words


@pytest.mark.parametrize("task", configs.task_names())
def test_headlines_of_every_task_are_explained(task):
    """Also by the numbers of its features, which each task with a section `evals` has."""
    declared = runs.report_of(configs.defaults(task))
    assert declared.headlines and {headline.metric for headline in declared.headlines} <= declared.metrics.keys()
    known = {"knn_top1", "probe_top1", "rankme"}
    assert known & declared.metrics.keys() == (known if "evals" in configs.defaults(task) else set())


def test_labels_are_told_in_words(tmp_path):
    for number, labels in enumerate(("all", "5 per class", "10%", "100%")):
        config = config_of("classify")
        config.data.labels = labels
        write_config(tmp_path / str(number), config)
        write_run(tmp_path / str(number), 0.5)
    groups = runs.collect_runs(*sorted(tmp_path.iterdir()))
    assert [group.labels for group in groups] == ["", "5 labels per class", "10% of the labels", ""]


@pytest.fixture
def own_task(tmp_path):
    """The config of a run whose task lies in a file of its own."""
    config = configs.from_json(configs.to_json(config_of("classify")))
    with config.unlocked():
        config.task, config.strength = "of_my_own", 3
    write_config(tmp_path, config)
    write_run(tmp_path, 0.5)
    write_pictures(tmp_path, "own_picture")
    return config


def test_a_task_that_is_not_loaded_has_the_default_report(own_task, tmp_path, drawn):
    """Curve of the loss, all numbers, pictures under their names; the keys without defaults."""
    assert re.search(r"^of_my_own +top1 +0.5$", report.write_report(tmp_path), re.MULTILINE)
    read = Reader((tmp_path / "report.html").read_text())
    assert [image["alt"] for image in read.images][:2] == ["own picture", "of_my_own: loss"]
    assert "the defaults are not known here" in "".join(read.words) and '"strength": 3' in "".join(read.words)
    assert runs.report_of(own_task) == Report("of_my_own")
    assert markdown.markdown_table(runs.collect_runs(tmp_path)).splitlines()[2:] == [
        "| of_my_own | loss | 1 |  |  |",
        "| of_my_own | top1 | 0.5 |  |  |",
    ]


OWN_TASK = """
from beit_jax.tasks import Curve, Report, Task, register_task

@register_task("of_my_own")
class OfMyOwn(Task):
    @property
    def report(self):
        return Report("mine", (Curve("", "eval/top1", "hits"),), captions={"own_picture": "what it drew"})
"""


@pytest.mark.usefixtures("registries")
def test_a_task_of_a_plugin_has_its_own_report(own_task, tmp_path, drawn):
    (tmp_path / "mine.py").write_text(OWN_TASK)
    visualize.main(["report", str(tmp_path), f"--plugin={tmp_path / 'mine.py'}"])
    captions = [image["alt"] for image in Reader((tmp_path / "report.html").read_text()).images]
    assert captions[:2] == ["what it drew", "mine: hits"]


def test_the_command(recipe, tmp_path, capsys, drawn):
    visualize.main(["report", str(recipe), "--out", str(tmp_path / "new" / "page.html")])
    assert f"report: {tmp_path / 'new' / 'page.html'}" in capsys.readouterr().out
    assert not (recipe / "report.html").exists() and not list(recipe.glob("*.png"))
    with pytest.raises(UserError, match="nowhere holds no run"):
        visualize.main(["report", str(recipe), str(tmp_path / "nowhere")])
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"the report cannot be made: .*; check that path, or choose another page with --out"
    ):
        visualize.main(["report", str(recipe), "--out", str(tmp_path / "file" / "page.html")])
    (recipe / "arm_seed1" / "result.json").write_text("{")
    with pytest.warns(UserWarning, match=r"arm_seed1/result.json is no result; the run counts as not finished"):
        visualize.main(["report", str(recipe)])


def test_a_stage_of_a_recipe_has_a_report_of_its_own(recipe, capsys, drawn):
    visualize.main(["report", str(recipe / "arm_seed0")])
    assert re.search(r"^arm +top1 +0.5$", capsys.readouterr().out, re.MULTILINE)
    words = "".join(Reader((recipe / "arm_seed0" / "report.html").read_text()).words)
    assert "arm_seed0" in words and "scratch" not in words and not (recipe / "report.html").exists()


def test_opens_in_a_browser(recipe, tmp_path, drawn):
    report.write_report(recipe)
    text = (recipe / "report.html").read_text()
    probe = "<script>console.log('widths', document.documentElement.scrollWidth, innerWidth)</script></body>"
    (tmp_path / "probed.html").write_text(text.replace("</body>", probe))
    (tmp_path / "broken.html").write_text(text.replace("</body>", "<script>nothing.there()</script></body>"))
    assert browser.console(recipe / "report.html", tmp_path / "profile") == []
    assert "not defined" in browser.console(tmp_path / "broken.html", tmp_path / "profile")[0]
    (line,) = browser.console(tmp_path / "probed.html", tmp_path / "profile", width=500)
    scrolled, inner = map(int, re.search(r"widths (\d+) (\d+)", line).groups())
    assert scrolled <= inner <= 500  # tables scroll, the page does not


def test_a_report_that_cannot_be_written_does_not_fail_a_complete_run(recipe, monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(recipe / "report.html"))

    monkeypatch.setattr(report.page, "write_bytes", refuse)
    monkeypatch.setattr(report, "write_text", refuse)
    train._report(recipe)
    assert "report.html'); the run is complete, and the command python -m beit_jax.visualize report" in caplog.text
