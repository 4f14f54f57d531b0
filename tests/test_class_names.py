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
EVERYTHING = "--config.data.eval_split=train"
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
    config.data.update(dict(source=f"folder:{images}", split="train[:90%]", eval_split="train[90%:]"))
    config.data.update(dict(ops=OPS, eval_ops=OPS))
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
        evaluate.main([f"--checkpoint={name}", *more, "--config.data.eval_split=train", "--config.batch_size=8"])
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
    evaluate.main([f"--checkpoint={run}", f"--pictures={tmp_path}/out", EVERYTHING])
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
    "more": "class folder 'wasp' is new",
    "fewer": "class folder 'bee' is missing",
    "renamed": "class folder 'wasp' is new, class folder 'bee' is missing",
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_class_folders_are_refused_by_name(run, images, tmp_path, change):
    """When a run is evaluated, when it continues, and when a config names classes."""
    other = changed(images, tmp_path, change)
    if change != "fewer":  # an evaluation may have some of the classes
        message = refused([f"--checkpoint={run}", f"--config.data.source=folder:{other}", EVERYTHING], evaluate)
        assert CHANGES[change] in message and ("--config.labels='()'" in message) == (change == "renamed")
    config = run_config(other)
    config.labels = tuple(sorted(CLASSES))
    with pytest.raises(UserError, match=re.escape(CHANGES[change])):
        train.train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists() or not (tmp_path / "new" / "config.json").exists()
    continued(run, tmp_path / "run", other)
    (tmp_path / "run" / "data.json").unlink()
    with warnings.catch_warnings(), pytest.raises(UserError, match=re.escape(CHANGES[change])) as error:
        warnings.simplefilter("ignore")
        train.train(run_config(other), tmp_path / "run")
    assert "--config.labels" not in str(error.value)  # which would not help


def continued(run, copy, images):
    """A copy of a run, on other images, that has not ended."""
    shutil.copytree(run, copy)
    (copy / "result.json").unlink()
    (copy / "config.json").write_text(to_json(run_config(images)))


def numbers_of(arguments, capsys):
    capsys.readouterr()
    evaluate.main([*arguments, EVERYTHING, "--config.batch_size=8"])
    return json.loads(capsys.readouterr().out)


def test_the_same_classes_under_other_names(run, images, tmp_path, capsys):
    other = changed(images, tmp_path, "renamed")
    source = f"--config.data.source=folder:{other}"
    assert numbers_of([f"--checkpoint={run}", source, "--config.labels=()"], capsys)["images"] == 24


def test_classes_of_a_part_of_the_data_and_in_another_order_keep_their_numbers(run, images, tmp_path, capsys):
    """Of a folder with fewer classes, and of a model that has the same classes in another order."""
    part = changed(images, tmp_path, "fewer")
    numbers_of([f"--checkpoint={run}", f"--pictures={tmp_path}/all"], capsys)
    found = numbers_of(
        [f"--checkpoint={run}", f"--config.data.source=folder:{part}", f"--pictures={tmp_path}/part"], capsys
    )
    rows = [{row["class"]: row for row in read(tmp_path / name / "classes.csv")} for name in ("all", "part")]
    assert rows[1].keys() == set(CLASSES) and rows[1]["bee"]["images"] == "0" and found["images"] == 16
    for name in ("ant", "=cat, $x$"):
        assert rows[0][name] == rows[1][name]
    assert found["top1"] == pytest.approx(sum(int(rows[1][name]["right"]) for name in rows[1]) / 16)

    _, params, config = beit_jax.from_pretrained(run)
    order = [2, 0, 1]
    params["head"] = {name: leaf[..., order] for name, leaf in params["head"].items()}
    config.labels = tuple(config.labels[number] for number in order)
    beit_jax.save_pretrained(tmp_path / "other_order", params, config, format="hf")
    whole = [f"--config.data.source=folder:{images}"]
    assert numbers_of([f"--checkpoint={tmp_path}/other_order", *whole], capsys) == pytest.approx(
        numbers_of([f"--checkpoint={run}"], capsys), rel=1e-5
    )


@pytest.mark.slow
def test_a_head_of_as_many_other_classes_is_not_taken(run, images, tmp_path, capsys):
    """By `init_from`; the head of the same classes in another order is, and the run then has this order."""
    _, params, config = beit_jax.from_pretrained(run)
    reversed_ = tuple(reversed(config.labels))
    for name, labels, told in (
        ("same", reversed_, ""),
        ("others", ("x", "y", "z"), "initialised anew, of classes with other names: head/bias, head/kernel; if they"),
        ("insisted", ("x", "y", "z"), "the classes of the checkpoint, which are taken by their numbers, have other"),
        ("unnamed", (), "do not name their classes, which are taken by their numbers"),
    ):
        config.labels = labels
        beit_jax.save_pretrained(tmp_path / name, params, config, format="beit_jax")
        started = run_config(images)
        started.init_from, started.optimizer.lr, started.steps = str(tmp_path / name), 0.0, 1
        started.init_optional = () if name == "insisted" else started.init_optional
        started.optimizer.update(dict(min_lr=0.0, warmup=""))
        train.train(started, tmp_path / f"from_{name}")
        assert (told or "starting from the parameters") in (output := capsys.readouterr().out)
        assert told or "anew" not in output
        model = beit_jax.from_pretrained(tmp_path / f"from_{name}")
        same = np.array_equal(model.params["head"]["kernel"], params["head"]["kernel"])
        assert same == (name != "others")
        assert model.config.labels == (reversed_ if name == "same" else tuple(sorted(CLASSES)))


def test_data_that_changed_under_a_run(run, images, tmp_path):
    other = tmp_path / "images"
    shutil.copytree(images, other)
    config = run_config(other)
    continued(run, tmp_path / "run", other)
    before = json.loads((tmp_path / "run" / "data.json").read_text())["data.split"]["classes"]
    for change, words in (
        (lambda: (other / "ant" / "9.png").write_bytes(b"x"), "images then and"),
        (lambda: (other / "ant" / "9.png").unlink(), ""),
        (lambda: (other / "ant" / "0.png").write_bytes(b"y"), "as many images, but files of other names or sizes"),
        (lambda: (other / "ant" / "0.png").unlink(), f"'ant' {before['ant']} then and {before['ant'] - 1} now"),
        (lambda: (other / "bee").rename(other / "wasp"), "class 'wasp' new, class 'bee' missing"),
    ):
        change()
        if not words:
            continue
        with pytest.raises(UserError, match="has changed since the run in") as error:
            train.train(config, tmp_path / "run")
        assert words in str(error.value) and "choose another --workdir" in str(error.value)
        assert ("delete" in str(error.value)) == ("wasp" not in words)
    (other / "wasp").rename(other / "bee")
    (tmp_path / "run" / "data.json").unlink()  # accepts the data as they are
    assert train.train(config, tmp_path / "run")["classify"]["images"] == 2
    assert json.loads((tmp_path / "run" / "data.json").read_text())["data.split"]["classes"] != before


def test_names_that_are_compared():
    folder = "folder:a"
    for known, found, source, expected in (
        ((), ("a", "b"), folder, (0, 1)),
        (("a", "b"), (), folder, ()),
        (("LABEL_0", "LABEL_1"), ("a", "b"), folder, (0, 1)),
        (("a", "b"), ("0", "1"), "mnist", (0, 1)),
        (("0", "1", "10", "2"), ("0", "1", "2", "10"), "numbers", (0, 1, 3, 2)),
        (("b", "a"), ("a", "b"), "cats", (1, 0)),
        (("a", "b", "c"), ("c", "a"), folder, (2, 0)),
        (("caf\u00e9", "b"), ("b", "cafe\u0301"), folder, (1, 0)),
        (("a", "a", "b"), ("a", "a", "b"), folder, (0, 1, 2)),
        (("a", "a", "b"), ("b",), folder, (2,)),
        (("a", "a", "b"), ("a", "b"), folder, "folder:a has a class 'a', and the model has 2 classes of this name"),
        (("a", "b"), ("0", "1"), folder, "class folders '0', '1' are new, class folders 'a', 'b' are missing"),
        (("0", "1"), ("0", "x"), folder, "class folder 'x' is new, class folder '1' is missing"),
        (("a",), tuple("abcdefg"), "letters", "classes 'b', 'c', 'd', 'e', 'f', ... (6) are new"),
    ):
        if isinstance(expected, tuple):
            assert class_names.numbers_of(known, found, source) == expected
            continue
        with pytest.raises(UserError, match=re.escape(expected)):
            class_names.numbers_of(known, found, source)


def evaluated(labels, classes, found, names, source="folder:a"):
    config = tiny("classify")
    config.labels, config.model.num_classes, config.data.source = labels, classes, source
    class_names.fill_in(config, found, names, to_train=False)
    return config


def test_classes_without_names_are_taken_in_order_and_this_is_said(caplog):
    order = "class 0 is 'a', class 1 is 'b', class 2 is 'c', class 3 is 'd', class 4 is 'e', ... (6)"
    for labels in (tuple(f"LABEL_{number}" for number in range(6)), ()):
        assert evaluated(labels, 6, 6, tuple("abcdef")).labels == tuple("abcdef")
        assert caplog.records.pop().getMessage().partition("those of ")[2] == f"folder:a: {order}"
    evaluated(("LABEL_0", "LABEL_1"), 2, 2, ("0", "1"), "mnist")
    assert not caplog.records  # numbers say nothing new
    assert evaluated(("a", "b"), 2, 2, ("0", "1"), "mnist").labels == ("a", "b")
    expected = "no names of the classes of mnist are known; they are taken in the order of those of the model: class 0"
    assert expected in caplog.records.pop().getMessage()
    assert evaluated(("a", "b"), 2, 2, ("b", "a")).labels == ("a", "b") and not caplog.records
    assert evaluated(("a", "b", "c"), 0, 2, ("c", "b")).model.num_classes == 3


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
