import json
import multiprocessing
import os
import random
import re
import resource
import shlex
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from commands import command, refused
from PIL import Image

from beit_jax import cli, shard_dataset, train
from beit_jax import config as configs
from beit_jax.data import pipeline
from beit_jax.data.records import shard_plan, shard_writer
from beit_jax.data.sources.folder import list_folder, list_pairs
from beit_jax.data.sources.open_source import open_source
from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import PART

# Processes that can be killed, forked from one that has loaded TensorFlow already.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["beit_jax.data.records.shard_writer"])


def write(images, out, shards=5, worker=0, workers=1):
    return shard_writer.write_dataset(str(images), Path(out), "photos", shards, worker, workers)


def files_of(out):
    """The bytes of every file of the data set."""
    return {path.name: path.read_bytes() for path in (Path(out) / "photos" / "1.0.0").iterdir()}


def stored(out, split="train"):
    """Examples as tfds reads them, in file order, with images as bytes."""
    builder = tfds.builder("photos", data_dir=str(out))
    as_stored = {key: tfds.decode.SkipDecoding() for key in builder.info.features if key in ("image", "annotation")}
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    return list(tfds.as_numpy(builder.as_dataset(split=split, decoders=as_stored, read_config=in_order)))


@pytest.fixture(scope="module")
def out(class_folder, tmp_path_factory):
    """The records of `class_folder`, written by one worker without interruption."""
    folder = tmp_path_factory.mktemp("records")
    assert write(class_folder, folder) == (folder / "photos" / "1.0.0", {"train": 60}, 5, 0)
    return folder


@pytest.mark.parametrize("split", ["train", "train[:90%]", "train[33%:]", "train[-7:]"])
def test_tfds_reads_the_folder_in_its_order(class_folder, out, split):
    listing, found = list_folder(str(class_folder), split), stored(out, split)
    assert [example["image"] for example in found] == [Path(path).read_bytes() for path in listing.paths]
    assert [example["label"] for example in found] == listing.labels
    names = [os.path.relpath(path, class_folder) for path in listing.paths]
    assert [example["file_name"].decode() for example in found] == names


def test_metadata(out):
    info = tfds.builder("photos", data_dir=str(out)).info
    assert info.features["label"].names == ["ant", "bee", "cat"]
    source = open_source("photos", str(out), "train", 1)
    assert source.class_names == ("ant", "bee", "cat") == source.take(np.array([3, 1])).class_names
    assert info.splits["train"].shard_lengths == [12] * 5
    files = [os.fspath(path) for path in info.splits["train"].filepaths]
    assert info.splits["train"].num_bytes == sum(map(len, tf.data.TFRecordDataset(files).as_numpy_iterator()))
    decoded = tfds.load("photos", data_dir=str(out), split="train[:5]")
    assert [example["image"].shape[-1] for example in decoded] == [3] * 5


def test_unlabelled_splits_with_broken_images(tmp_path):
    contents = {"train/1.jpg": b"", "train/2.png": b"no image", "train/3.gif": b"\xff" * 9, "val/1.bmp": b"BM"}
    for name, content in contents.items():
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(content)
    assert write(tmp_path / "images", tmp_path / "out").images == {"train": 3, "validation": 1}
    found = stored(tmp_path / "out") + stored(tmp_path / "out", "validation")
    assert {example["file_name"].decode(): example["image"] for example in found} == contents
    assert all(set(example) == {"image", "file_name"} for example in found)
    source = open_source("photos", str(tmp_path / "out"), "validation", 1)
    assert source.num_classes == 1 and source.class_names == ()


def test_label_maps(tmp_path):
    for index in range(6):
        for kind, extension, level in (("images", "jpg", 10 * index), ("annotations", "png", index)):
            path = tmp_path / kind / "training" / f"{index}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 5), level, np.uint8)).save(path)
    out = tmp_path.with_name("pairs_out")
    write(tmp_path, out, shards=2)
    pairs = list_pairs(str(tmp_path), "train")
    expected = [tuple(Path(path).read_bytes() for path in pair) for pair in pairs]
    assert [(example["image"], example["annotation"]) for example in stored(out)] == expected
    source = open_source("photos", str(out), "train", 1)
    zero = tf.constant(0, tf.int64)
    raw = source.raw(None, zero, zero, pipeline.Shard())
    read = list(raw.map(lambda *raw: source.record(raw)).as_numpy_iterator())
    assert [(record["image"], record["label_map"]) for record in read] == expected
    assert [record["_id"].decode() for record in read] == [os.path.relpath(image, tmp_path) for image, _ in pairs]


def test_the_same_bytes_elsewhere_and_by_workers(class_folder, out, tmp_path):
    copies = [(path, tmp_path / "copy" / path.relative_to(class_folder)) for path in class_folder.rglob("*.*")]
    for path, copy in sorted(copies, reverse=True):
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    missing = [write(tmp_path / "copy", tmp_path / "out", worker=worker, workers=3).missing for worker in (2, 0)]
    assert missing == [4, 2]
    with pytest.raises(UserError, match=r"the metadata of the data set .*out/photos are missing"):
        open_source("photos", str(tmp_path / "out"), "train", 1)
    assert write(tmp_path / "copy", tmp_path / "out", worker=1, workers=3).missing == 0
    assert files_of(tmp_path / "out") == files_of(out)


def many(folder, count=240):
    dice = np.random.default_rng(0)
    for index in range(count):
        path = folder / "ab"[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.bytes(2000))
    return folder


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    images, dice, seen = many(tmp_path / "images"), random.Random(0), []
    folder = tmp_path / "out" / "photos" / "1.0.0"

    def there(pattern):
        return len(list(folder.glob(pattern)))

    write(images, tmp_path / "uninterrupted", 24)
    for _ in range(8):
        process = FORKED.Process(
            target=shard_writer.write_dataset, args=(str(images), tmp_path / "out", "photos", 24, 0, 1)
        )
        process.start()
        enough = there("*-of-00024") + dice.randrange(5)
        while process.is_alive() and there("*-of-00024") < enough:
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.005))
        process.kill()
        process.join()
        seen.append((there("*-of-00024"), there(f"*{PART}*")))
    assert len({shards for shards, _ in seen} & set(range(1, 24))) > 3, seen
    assert any(parts for _, parts in seen), seen
    write(images, tmp_path / "out", 24)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "uninterrupted")


def test_a_full_disk(tmp_path):
    many(tmp_path / "images" / "train", 4)
    images = many(tmp_path / "images" / "val", 20).parent
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(UserError) as error:
        # The kernel refuses files of more than 20 kB: an error in writing, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            write(images, tmp_path, 1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    expected = r"cannot write .*photos-validation.tfrecord-00000-of-00001: .*File too large.*; finished shards stay.*"
    assert re.fullmatch(expected, str(error.value))
    assert sorted(files_of(tmp_path)) == ["photos-train.tfrecord-00000-of-00001", shard_plan.FILE]
    write(images, tmp_path, 1)
    write(images, tmp_path / "uninterrupted", 1)
    assert files_of(tmp_path) == files_of(tmp_path / "uninterrupted")


def test_temporary_files_need_no_other_folder(class_folder, out, tmp_path, monkeypatch):
    """TMPDIR may be missing or full. What a killed command left is removed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    write(class_folder, tmp_path)
    left = tmp_path / "photos" / "1.0.0" / f"metadata{PART}left"
    left.mkdir()
    (left / "features.json").touch()
    write(class_folder, tmp_path)
    assert files_of(tmp_path) == files_of(out) and not left.exists()


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    images = many(tmp_path / "images", 4)
    (images / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"^cannot read .*a/gone.jpg: No such file or directory; repair or remove"):
        write(images, tmp_path / "out")
    (images / "a" / "gone.jpg").unlink()
    claim = shard_plan.claim_folder
    for change, message in (
        (lambda path: path.write_bytes(b"more"), r"a/0.jpg has changed since the command was started"),
        (lambda path: path.unlink(), r"cannot read .*a/0.jpg: No such file"),
    ):
        monkeypatch.setattr(shard_plan, "claim_folder", lambda *a, c=change: (claim(*a), c(images / "a/0.jpg")))
        with pytest.raises(UserError, match=message):
            write(images, tmp_path / message[:3], 1)
        many(images, 4)


def arguments_of(images, out, *more):
    return [f"--images={images}", f"--out={out}", "--name=photos", *more]


def test_changed_folders_are_refused(tmp_path):
    images = many(tmp_path / "images", 8)
    write(images, tmp_path / "out", 4, worker=1, workers=2)
    before = files_of(tmp_path / "out")
    arguments = arguments_of(images, tmp_path / "out", "--shards=4")
    (images / "a" / "new.jpg").write_bytes(b"1")
    message = refused(arguments, shard_dataset)
    assert "'train' had 8 with 16000 bytes, and has 9 with 16001 now" in message and "start again" in message
    (images / "a" / "new.jpg").unlink()
    (images / "a" / "0.jpg").rename(images / "a" / "8.jpg")
    assert "was started for other images" in refused(arguments, shard_dataset)
    (images / "a" / "8.jpg").rename(images / "a" / "0.jpg")
    message = refused(arguments_of(images, tmp_path / "out", "--shards=2"), shard_dataset)
    assert "was started with 4 shards of 'train', found 2 now" in message
    assert files_of(tmp_path / "out") == before
    shard_dataset.main(arguments)
    assert len(stored(tmp_path / "out")) == 8


@pytest.mark.slow
def test_the_pipeline_reads_them(out, data_config):
    config = data_config(source="photos", data_dir=str(out), eval_split="train")
    alone = pipeline.make_train(config, seed=0, batch_size=8)
    two = [pipeline.make_train(config, seed=0, batch_size=8, process_index=i, process_count=2) for i in (0, 1)]
    for _ in range(8):
        batch, parts = next(alone), [next(stream) for stream in two]
        for key in batch:
            np.testing.assert_array_equal(batch[key], np.concatenate([part[key] for part in parts]))
    assert sum(batch["valid"].sum() for batch in pipeline.make_eval(config, batch_size=16)) == 60
    config.labels = "4 per class"
    assert pipeline.info(config) == (12, 3)
    batches = list(pipeline.make_train_once(config, config.eval_ops, seed=0, batch_size=4))
    assert np.bincount(np.concatenate([batch["label"] for batch in batches])).tolist() == [4, 4, 4]


def test_broken_images_are_named_by_their_file(class_folder, data_config, tmp_path, caplog):
    shutil.copytree(class_folder, tmp_path / "images")
    (tmp_path / "images" / "bee" / "07.jpg").write_bytes(b"broken")
    write(tmp_path / "images", tmp_path / "out")
    config = data_config(source="photos", data_dir=str(tmp_path / "out"), eval_split="train")
    assert sum(batch["valid"].sum() for batch in pipeline.make_eval(config, batch_size=16)) == 59
    assert [record.args[0] for record in caplog.records if "cannot read" in record.msg] == ["bee/07.jpg"]


@pytest.mark.slow
@pytest.mark.usefixtures("in_the_checkout")
def test_training_with_the_settings_that_are_printed(class_folder, tmp_path, capsys):
    shard_dataset.main(arguments_of(class_folder, tmp_path / "out"))
    settings = shlex.split(capsys.readouterr().out.splitlines()[-1].partition("train on it with ")[2])
    assert settings[:2] == ["--config.data.source=photos", f"--config.data.data_dir={tmp_path / 'out'}"]
    train.main(command("pretrain", tmp_path / "run", *settings))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["loss"] < 4


@pytest.mark.usefixtures("in_the_checkout")
def test_commands_of_the_page(repository, tmp_path, monkeypatch):
    text = "\n".join(re.findall(r"```sh\n(.*?)```", (repository / "docs" / "data.md").read_text(), re.DOTALL))
    lines = [shlex.split(line)[2:] for line in text.replace("\\\n", "").splitlines() if line]
    assert [line[0] for line in lines].count("beit_jax.shard_dataset") == 5
    for program, *arguments in lines:
        if program == "beit_jax.train" and "records" in " ".join(arguments):
            parser = cli.config_parser("beit_jax.train", "", "configs/quickstart.py")
            parser.add_argument("--workdir")
            configs.validate(cli.parse_with_config(parser, arguments)[1])
    monkeypatch.chdir(tmp_path)
    many(tmp_path / "photos", 6)
    for program, *arguments in lines:
        if program == "beit_jax.shard_dataset" and not {"PATH", "--beam_runner"} & set(arguments):
            shard_dataset.main(arguments)
    assert len(stored("records")) == 6
