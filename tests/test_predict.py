"""Tables of predicted classes: which images, which names, and what happens to those that cannot be read."""

import csv
import subprocess
import sys

import jax
import numpy as np
import pytest
from commands import refused
from image_models import make_images, save
from PIL import Image

import beit_jax
from beit_jax import predict

pytestmark = pytest.mark.usefixtures("in_the_checkout")
NAMES = tuple(f"class {letter}" for letter in "abcdefghij")
ODD = ("=1+1.png", "a, b.png", 'quo"te.png', "line\nbreak.png", "\udcff.png", "ümlaut.png")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models"), "classify", NAMES)


def run(model, *arguments):
    predict.main([f"--checkpoint={model}", *map(str, arguments)])


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_several_classes_are_those_of_the_model(model, tmp_path):
    """The probabilities are those that the public functions give for the same pixels."""
    images = make_images(tmp_path / "images", ("b/deep/2.png", "b/1.PNG", "a.png"))
    run(model, "--images", images, "--top=3", "--out", tmp_path / "out" / "table.csv")
    head, *rows = read(tmp_path / "out" / "table.csv")
    assert head == ["file", "class", "probability", "class_2", "probability_2", "class_3", "probability_3"]
    assert [row[0] for row in rows] == ["a.png", "b/1.PNG", "b/deep/2.png"]
    network, params, config = beit_jax.from_pretrained(model)
    pixels = beit_jax.preprocess([Image.open(images / row[0]) for row in rows], config.preprocess)
    probabilities = np.asarray(jax.nn.softmax(network.apply({"params": params}, pixels)))
    for row, expected in zip(rows, probabilities, strict=True):
        order = np.argsort(-expected)[:3]
        assert row[1::2] == [NAMES[index] for index in order]
        np.testing.assert_allclose(np.array(row[2::2], float), expected[order], atol=1e-3)  # Pillow resizes otherwise


def test_odd_names_and_images_that_cannot_be_read(model, tmp_path, capsys):
    """Each has its row; a spreadsheet gets valid UTF-8."""
    images = make_images(tmp_path / "images", ODD)
    (images / "broken.png").write_bytes(b"\x89PNG and no more")
    (images / "empty\nfile.jpg").write_bytes(b"")
    (images / "notes.txt").write_text("no image")
    run(model, "--images", images, "--out", tmp_path / "table.csv", "--batch_size=3")
    table = {row[0]: row[1:] for row in read(tmp_path / "table.csv")[1:]}
    assert set(table) == {*ODD, "broken.png", "empty\nfile.jpg"} - {"\udcff.png"} | {"\\xff.png"}
    unread = {name for name, cells in table.items() if cells == ["", ""]}
    assert unread == {"broken.png", "empty\nfile.jpg"}
    assert all(cells[0] in NAMES for name, cells in table.items() if name not in unread)
    errors = capsys.readouterr().err
    assert "broken.png: damaged" in errors and "empty\\nfile.jpg: empty" in errors
    assert "2 of 8 images cannot be read" in errors


def test_several_paths_and_the_printed_table(model, tmp_path, capsys):
    images = make_images(tmp_path / "images", ("1.png", "line\nbreak.png"))
    single = make_images(tmp_path, ("without_extension",)) / "without_extension"
    run(model, "--images", f"{images}/", single)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "class", "probability"]
    assert [line.split(" class ")[0].rstrip() for line in lines[1:]] == [
        f"{images}/1.png",
        f"{images}/line\\nbreak.png",
        str(single),
    ]
    run(model, "--images", single)
    assert capsys.readouterr().out.splitlines()[1].startswith("without_extension  class ")


def test_what_is_refused(model, tmp_path):
    images = make_images(tmp_path / "images", ("1.png",))
    (tmp_path / "empty").mkdir()
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "broken.png").write_bytes(b"broken")
    pretraining = save(tmp_path, "pretrain_pixels", name="pretraining")
    for checkpoint, path, more, words in (
        (pretraining, images, (), "is a model of the task 'pretrain_pixels', which tells no classes"),
        (model, images, ("--top=11",), "--top=11, but"),
        (model, images, ("--top=0",), "expected at least 1"),
        (model, tmp_path / "empty", (), "empty holds no images; expected .jpg"),
        (model, tmp_path / "nowhere", (), "nowhere does not exist; expected an image"),
        (model, tmp_path / "none", (), "none of the 1 images can be read"),
        (tmp_path / "empty", images, (), "empty holds no checkpoint; expected"),
        (model, images, (f"--out={images}",), "cannot be written"),
        (model, "s3://bucket/images", (), "is a URL"),
    ):
        arguments = [f"--checkpoint={checkpoint}", f"--images={path}", *more]
        assert words in refused(arguments, predict), words


def test_from_the_command_line(model, tmp_path):
    """One line and exit status 2 for a mistake."""
    arguments = [sys.executable, "-m", "beit_jax.predict", f"--checkpoint={model}", f"--images={tmp_path}/none"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip().splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr
