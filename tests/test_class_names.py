"""The names of the classes stay with a run: from the folder to the predictions, and into other libraries."""

import csv
import json
import re
import shutil
import warnings

import jax
import numpy as np
import pytest
from commands import refused
from PIL import Image
from tiny import config as tiny

import beit_jax
from beit_jax import evaluate, predict, train
from beit_jax.config import class_names, to_json
from beit_jax.convert.__main__ import main as convert
from beit_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("in_the_checkout")
CLASSES = ("ant", "bee", "=cat, $x$")
OPS = "decode|resize_small(18)|central_crop(16)|normalize('imagenet')|keep('image', 'label')"


def make_images(root, classes=CLASSES, count=9):
    """Images of several sizes; their colours tell the classes apart, in part."""
    random = np.random.default_rng(0)
    for label, name in enumerate(classes):
        for index in range(count - label):
            (root / name).mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 200, (20 + index, 24, 3), dtype=np.uint8)
            pixels[..., label % 3] //= 2
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def run_config(images):
    config = tiny("classify")
    config.model.num_classes, config.model.init_scale, config.steps = 0, 1.0, 2
    config.optimizer.warmup = "1 steps"
    config.data.update(dict(source=f"folder:{images}", split="train", eval_split="train", ops=OPS, eval_ops=OPS))
    return config


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("made") / "images")


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """The folder of a run that has ended."""
    workdir = tmp_path_factory.mktemp("runs") / "finetune"
    with jax.numpy_dtype_promotion("standard"):
        train.train(run_config(images), workdir)
    return workdir


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_snippet_of_the_readme_works_on_a_run(run, images):
    model, params, config = beit_jax.from_pretrained(run)
    pixels = beit_jax.preprocess([Image.open(images / "ant" / "0.png")], config.preprocess)
    assert config.labels[int(model.apply({"params": params}, pixels)[0].argmax())] in CLASSES
    assert config.labels == tuple(sorted(CLASSES)) == ("=cat, $x$", "ant", "bee")


@pytest.mark.parametrize(("format", "key"), [("hf", "id2label"), ("timm", "label_names"), ("beit_jax", "")])
def test_names_are_converted_and_come_back(run, tmp_path, format, key):
    convert([str(run), str(tmp_path / "out"), "--to", format])
    if key:
        written = json.loads((tmp_path / "out" / "config.json").read_text())[key]
        assert list(written.values() if format == "hf" else written) == sorted(CLASSES)
    assert beit_jax.from_pretrained(tmp_path / "out").config.labels == tuple(sorted(CLASSES))


def test_the_accuracy_of_the_table_is_that_of_the_evaluation(run, images, tmp_path, capsys):
    """Of a run, and of the same model in another library's format: through the same pixels."""
    convert([str(run), str(tmp_path / "hf"), "--to", "hf"])
    for name, more in ((run, []), (tmp_path / "hf", [f"--config.data.source=folder:{images}"])):
        capsys.readouterr()
        splits = ["--config.data.eval_split=train", "--config.batch_size=8"] if more else []
        evaluate.main([f"--checkpoint={name}", *more, *splits])
        numbers = json.loads(capsys.readouterr().out)
        assert numbers["images"] == 24 and numbers["majority"] == pytest.approx(9 / 24) and "top5" not in numbers
        out = tmp_path / "predictions.csv"
        predict.main([f"--checkpoint={name}", f"--images={images}", f"--out={out}", "--batch_size=8"])
        rows = read(out)
        assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
        assert list(rows[0]) == ["file", "class", "probability"]
        right = [row["file"].startswith(row["class"] + "/") for row in rows]
        assert np.mean(right) == pytest.approx(numbers["top1"]) and 0 < np.mean(right) < 1
        assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows)


def test_pictures_of_an_evaluation(run, tmp_path, capsys):
    evaluate.main([f"--checkpoint={run}", f"--pictures={tmp_path}/out"])
    numbers = json.loads(capsys.readouterr().out)
    for name in ("confusion", "predictions"):
        assert Image.open(tmp_path / "out" / f"{name}.png").size[0] > 100
    classes, confusion = read(tmp_path / "out" / "classes.csv"), read(tmp_path / "out" / "confusion.csv")
    assert [(row["class"], row["images"]) for row in classes] == [("=cat, $x$", "7"), ("ant", "9"), ("bee", "8")]
    assert sum(int(row["right"]) for row in classes) == round(24 * numbers["top1"])
    for row, matrix in zip(classes, confusion, strict=True):
        assert row["class"] == matrix["true class"] and row["right"] == matrix[row["class"]]
        assert float(row["accuracy"]) == pytest.approx(int(row["right"]) / int(row["images"]))
        assert int(row["images"]) == sum(int(matrix[name]) for name in CLASSES)


def test_the_report_shows_the_matrix_and_the_majority_baseline(run):
    text = (run / "report.html").read_text()
    assert "predicted classes of the evaluation images" in text and "majority baseline" in text
    assert (run / "tables" / "confusion.csv").exists()


def changed(images, tmp_path, change):
    """A copy of the images with a class more, less, or of another name."""
    copy = tmp_path / "images"
    shutil.copytree(images, copy)
    if change == "more":
        make_images(copy, ("wasp",), 2)
    elif change == "fewer":
        shutil.rmtree(copy / "bee")
    else:
        (copy / "bee").rename(copy / "wasp")
    return copy


CHANGES = {
    "more": "class folder 'wasp' is new;",
    "fewer": "class folder 'bee' is missing;",
    "renamed": "class folder 'wasp' is new, class folder 'bee' is missing;",
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_class_folders_are_refused_by_name(run, images, tmp_path, change):
    """When a run is evaluated, when it continues, and when a config names classes."""
    other = changed(images, tmp_path, change)
    message = refused([f"--checkpoint={run}", f"--config.data.source=folder:{other}"], evaluate)
    assert CHANGES[change] in message and ("--config.labels='()'" in message) == (change == "renamed")
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    config = run_config(other)
    (tmp_path / "run" / "config.json").write_text(to_json(config))
    with warnings.catch_warnings(), pytest.raises(UserError, match=re.escape(CHANGES[change])):
        warnings.simplefilter("ignore")
        train.train(config, tmp_path / "run")
    config.labels = tuple(sorted(CLASSES))
    with pytest.raises(UserError, match=re.escape(CHANGES[change])):
        train.train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists() or not (tmp_path / "new" / "config.json").exists()


def test_the_same_classes_under_other_names(run, images, tmp_path, capsys):
    other = changed(images, tmp_path, "renamed")
    source = f"--config.data.source=folder:{other}"
    evaluate.main([f"--checkpoint={run}", source, "--config.labels=()"])
    assert json.loads(capsys.readouterr().out)["images"] == 24


def test_names_that_are_compared():
    folder = "folder:a"
    for known, found, source, words in (
        ((), ("a", "b"), folder, ""),
        (("a", "b"), (), folder, ""),
        (("LABEL_0", "LABEL_1"), ("a", "b"), folder, ""),
        (("a", "b"), ("0", "1"), "mnist", ""),
        (("a", "b"), ("0", "1"), folder, "class folders '0', '1' are new, class folders 'a', 'b' are missing"),
        (("a", "b"), ("b", "a"), "cats", "the classes are in another order"),
        (("0", "1"), ("0", "x"), folder, "class folder 'x' is new, class folder '1' is missing"),
        (tuple("abcdefg"), ("a",), "letters", "classes 'b', 'c', 'd', 'e', 'f', ... (6) are missing"),
    ):
        if not words:
            class_names.check_same(known, found, source, "")
            continue
        with pytest.raises(UserError, match=re.escape(words)):
            class_names.check_same(known, found, source, "")


def test_classes_without_names_are_taken_in_order_and_this_is_said(caplog):
    class_names.check_same(tuple(f"LABEL_{number}" for number in range(6)), tuple("abcdef"), "folder:a", "")
    order = "class 0 is 'a', class 1 is 'b', class 2 is 'c', class 3 is 'd', class 4 is 'e', ... (6)"
    assert [record.getMessage().partition("those of ")[2] for record in caplog.records] == [f"folder:a: {order}"]
    class_names.check_same(("LABEL_0", "LABEL_1"), ("0", "1"), "mnist", "")
    assert len(caplog.records) == 1  # numbers say nothing new


@pytest.mark.parametrize(
    ("labels", "classes", "found", "names", "expected"),
    [
        ((), 0, 2, ("a", "b"), ("a", "b")),
        ((), 0, 10, tuple("0123456789"), tuple("0123456789")),
        (("a", "b"), 2, 2, ("0", "1"), ("a", "b")),
        (("LABEL_0", "LABEL_1"), 2, 2, ("a", "b"), ("a", "b")),
        ((), 0, 1, (), "x has no labels; expected at least two classes to tell apart"),
        ((), 1, 1, ("a",), "x has one class; expected at least two classes to tell apart"),
        (("a",), 2, 2, (), "labels names 1 classes, and model.num_classes=2"),
        ((), 5, 2, ("a", "b"), "model.num_classes=5, but x has 2 classes"),
    ],
)
def test_names_that_are_filled_in(labels, classes, found, names, expected):
    config = tiny("classify")
    config.labels, config.model.num_classes, config.data.source = labels, classes, "x"
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            class_names.fill_in(config, found, names)
        return
    class_names.fill_in(config, found, names)
    assert config.labels == expected and config.model.num_classes == found
