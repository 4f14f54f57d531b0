"""Files of features: their values and shapes, which images and classes, what a stop leaves, and what is refused."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import refused
from image_models import make_images, save
from PIL import Image

import beit_jax
from beit_jax import embed
from beit_jax.convert import preprocessing
from beit_jax.data.sources.image_files import find_images, number_classes
from beit_jax.feature_files import FeatureFolder

pytestmark = pytest.mark.usefixtures("in_the_checkout")
NAMES = ("ant/1.png", "ant/deep/2.PNG", "bee/1.png", "bee/ümlaut.png", "bee/\udcff.png")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models"), "pretrain_pixels")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Five images in class folders, and two files that cannot be read, the first and the last one."""
    root = make_images(tmp_path_factory.mktemp("images"), NAMES)
    (root / "ant" / "0.png").write_bytes(b"\x89PNG and no more")
    (root / "cat").mkdir()
    (root / "cat" / "empty.jpg").write_bytes(b"")
    return root


def run(model, images, out, *arguments):
    embed.main([f"--checkpoint={model}", "--images", str(images), f"--out={out}", *map(str, arguments)])


def load(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def expected(model, images, size=16, **options):
    network, params, config = beit_jax.from_pretrained(model)
    section = preprocessing.at_size(config.preprocess, size) if size != 16 else config.preprocess
    pixels = beit_jax.preprocess([Image.open(os.fsencode(images / name)) for name in sorted(NAMES)], section)
    return np.asarray(beit_jax.features(network, params, pixels, **options))


def test_a_file_has_the_features_of_the_public_functions(model, images, tmp_path, capsys):
    """One block at two thirds of the depth; images that cannot be read are left out; their class keeps its number."""
    run(model, images, tmp_path / "out" / "features.npz")
    found = load(tmp_path / "out" / "features.npz")
    assert {name: values.dtype.kind for name, values in found.items()} == dict(
        features="f", names="U", labels="i", classes="U"
    )
    assert found["names"].tolist() == [name.replace("\udcff", "\\xff") for name in sorted(NAMES)]
    assert found["labels"].dtype == np.int32 and found["labels"].tolist() == [0, 0, 1, 1, 1]
    assert found["classes"].tolist() == ["ant", "bee", "cat"]
    assert found["features"].dtype == np.float32 and found["features"].shape == (5, 32)
    np.testing.assert_allclose(
        found["features"], expected(model, images, layers=2), atol=1e-3
    )  # Pillow resizes otherwise
    said = capsys.readouterr()
    assert "mean of layer 2 of 2 of 5 images, 3 classes" in said.out
    assert "0.png: damaged" in said.err and "empty.jpg: empty" in said.err
    assert "2 of 7 images cannot be read; they are left out" in said.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["features.npz"]


def test_shards_of_several_layers_and_of_patches_of_larger_images(model, images, tmp_path):
    run(model, images, tmp_path / "layers", "--layers=2,1", "--kind=cls", "--shard_size=3")
    shards = [np.load(tmp_path / "layers" / f"features-0000{i}.npy", allow_pickle=False) for i in range(3)]
    assert [len(shard) for shard in shards] == [2, 3, 0]  # the unreadable first one, and the last one alone
    assert shards[2].shape == (0, 2, 32)
    np.testing.assert_allclose(np.concatenate(shards), expected(model, images, layers=(2, 1), kind="cls"), atol=1e-3)
    names = [np.load(tmp_path / "layers" / f"names-0000{i}.npy", allow_pickle=False).tolist() for i in range(3)]
    labels = [np.load(tmp_path / "layers" / f"labels-0000{i}.npy", allow_pickle=False).tolist() for i in range(3)]
    assert [*map(len, names)] == [2, 3, 0] and labels == [[0, 0], [1, 1, 1], []]
    assert np.load(tmp_path / "layers" / "classes.npy", allow_pickle=False).tolist() == ["ant", "bee", "cat"]

    run(model, images, tmp_path / "maps.npz", "--layers=1", "--kind=patches", "--image_size=24")
    maps = load(tmp_path / "maps.npz")["features"]
    assert maps.shape == (5, 6, 6, 32)
    np.testing.assert_allclose(maps, expected(model, images, 24, layers=1, kind="patches"), atol=2e-3)


class StopError(Exception):
    """In place of a kill."""


def test_a_stopped_command_goes_on_and_other_parts_are_refused(model, images, tmp_path, monkeypatch):
    out, whole, flags = tmp_path / "features.npz", tmp_path / "whole.npz", ("--shard_size=2",)
    run(model, images, whole, *flags)
    write, written = FeatureFolder.write, []

    def stopped(self, shard, *arguments):
        written.append(shard)
        if len(written) == 3:
            (self.folder / "features-00002.npy.part-0123").write_bytes(b"half")
            raise StopError
        return write(self, shard, *arguments)

    monkeypatch.setattr(FeatureFolder, "write", stopped)
    with pytest.raises(StopError):
        run(model, images, out, *flags)
    assert not out.exists()
    parts = tmp_path / "features.npz.parts"
    for changed, words in (
        (["--layers=1"], "layers is 2 there and 1 now"),
        (["--kind=cls"], "kind is 'mean' there and 'cls' now"),
        (["--image_size=24"], "parameters is"),
        (["--shard_size=3"], "shard_size is 2 there and 3 now"),
    ):
        arguments = [f"--checkpoint={model}", f"--images={images}", f"--out={out}", *flags, *changed]
        message = refused(arguments, embed)
        assert f"{parts} has the features of another command: {words}" in message
    other = shutil.copytree(images, tmp_path / "other")  # the same names
    arguments = [f"--checkpoint={model}", f"--images={other}", f"--out={out}", *flags]
    assert "images is '7 with the paths" in refused(arguments, embed)
    run(model, images, out, *flags)
    assert written == [0, 1, 2, 2, 3]
    assert out.read_bytes() == whole.read_bytes() and not parts.exists()


def test_which_folders_are_classes(tmp_path):
    """The first folder on the way to an image, or the second below splits; all images need one."""

    def classes(*names):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        files = find_images([str(make_images(root, names))])
        return number_classes(files)

    assert classes("b/1.png", "a/x/2.png", "b/c/3.png") == ([0, 1, 1], ["a", "b"])
    assert classes("train/b/1.png", "Val/a/2.png") == ([0, 1], ["a", "b"])
    assert classes("train/1.png", "other/2.png") == ([0, 1], ["other", "train"])
    assert classes("a/1.png", "2.png") == (None, None)
    assert classes("train/1.png", "val/2.png") == (None, None)
    assert classes("images/1.png", "annotations/1.png") == (None, None)
    two = [str(tmp_path / "0"), str(tmp_path / "1")]
    assert number_classes(find_images(two)) == ([0, 1, 1, 0, 1], ["a", "b"])
    assert number_classes(find_images([*two, str(tmp_path / "3" / "2.png")])) == (None, None)


def test_without_class_folders_there_are_no_labels(model, tmp_path):
    run(model, make_images(tmp_path / "images", ("1.png",)), tmp_path / "one.npz")
    found = load(tmp_path / "one.npz")
    assert found.keys() == {"features", "names"} and found["features"].shape == (1, 32)


def test_what_is_refused(model, images, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "broken.png").write_bytes(b"broken")
    tokenizer = save(tmp_path, "tokenizer", name="tokenizer")
    for checkpoint, path, out, more, words in (
        (model, images, "a.npz", ("--layers=3",), "there is no layer 3: the encoder has the layers 1 to 2"),
        (model, images, "a.npz", ("--layers=1,,2",), "found --layers=1,,2; expected numbers from 1 on"),
        (model, images, "a.npz", ("--layers=0",), "found --layers=0; expected numbers from 1 on"),
        (model, images, "a.npz", ("--kind=max",), "invalid choice: 'max'"),
        (model, images, "a.npz", ("--image_size=18",), "expected multiples of the patch size 4"),
        (model, images, "a.npz", ("--shard_size=0",), "found --shard_size=0, expected at least 1"),
        (model, images, "a.npz", ("--batch_size=0",), "found --batch_size=0, expected at least 1"),
        (model, images, "a.npy", (), "a.npy; expected a file that ends in .npz, or a folder"),
        (model, images, "file", (), "file; expected a file that ends in .npz, or a folder"),
        (model, images, "folder.npz", (), "folder.npz cannot be written: it is a folder"),
        (model, images, "full", (), "full holds notes.txt, which is not of this command"),
        (model, images, "file/a.npz", (), "a.npz.parts cannot be written"),
        (model, tmp_path / "none", "a.npz", (), "none of the 1 images can be read"),
        (tokenizer, images, "a.npz", (), "is of the class DiscreteVAE, without a vision transformer"),
    ):
        arguments = [f"--checkpoint={checkpoint}", f"--images={path}", f"--out={tmp_path / out}", *more]
        assert words in refused(arguments, embed), words
        assert not list(tmp_path.glob("a.np*")), words


@pytest.mark.slow
def test_killed_and_started_again(model, images, tmp_path):
    many = tmp_path / "images"
    for copy in range(12):
        shutil.copytree(images, many / f"class {copy}")
    flags = [f"--checkpoint={model}", f"--images={many}", "--shard_size=6", "--batch_size=4"]
    command = [sys.executable, "-m", "beit_jax.embed", *flags]
    subprocess.run([*command, f"--out={tmp_path}/whole.npz"], check=True)
    out, parts = tmp_path / "killed.npz", tmp_path / "killed.npz.parts"
    for shards in (1, 5):
        process = subprocess.Popen([*command, f"--out={out}"])
        while process.poll() is None and len(list(parts.glob("features-?????.npy"))) < shards:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and not out.exists()
    subprocess.run([*command, f"--out={out}"], check=True)
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*.npz*")) == ["killed.npz", "whole.npz"]
