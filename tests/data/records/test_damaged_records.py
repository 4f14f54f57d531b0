"""Records that are damaged, or do not fit their metadata: one line names the file, at the start where that can be."""

import json
import shutil
import struct

import pytest
import tensorflow as tf

from beit_jax.data.decoding.assertions import readable_errors
from beit_jax.data.records import shard_writer
from beit_jax.data.sources.open_source import open_source, open_split
from beit_jax.data.sources.shard_files import SIZES
from beit_jax.data.sources.source import Shard
from beit_jax.errors import UserError


@pytest.fixture(scope="module")
def written(class_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    shard_writer.write_dataset(str(class_folder), folder, "photos", 5, 0, 1)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "records") / "photos" / "1.0.0"


def shard(folder, index):
    return folder / f"photos-train.tfrecord-{index:05d}-of-00005"


def starts(file):
    """Where the records of a file begin."""
    data, position, found = file.read_bytes(), 0, []
    while position < len(data):
        found.append(position)
        position += 16 + struct.unpack_from("<Q", data, position)[0]
    return found


def change(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 0xFF
    file.write_bytes(data)


def open_again(folder, split="train"):
    return open_split("photos", str(folder.parents[1]), split)


def read(folder, split="train"):
    source = open_source("photos", str(folder.parents[1]), split, 10)
    zero = tf.constant(0, tf.int64)
    with readable_errors():
        records = source.raw(None, zero, zero, Shard()).map(lambda *raw: source.record(raw)["label"])
        return list(records.as_numpy_iterator())


def rewrite(file, edit):
    """Writes the records of a file again; `edit` changes the features of each."""
    examples = [
        tf.train.Example.FromString(record) for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    ]
    with tf.io.TFRecordWriter(str(file)) as writer:
        for example in examples:
            edit(example.features.feature)
            writer.write(example.SerializeToString())


@pytest.mark.parametrize("where", ["length", "image"])
def test_a_changed_byte_of_a_record(folder, where):
    third = starts(shard(folder, 1))[2]
    offset = {"length": third + 1, "image": third + 100}
    change(shard(folder, 1), offset[where])
    message = (
        r"photos-train.tfrecord-00001-of-00005 is damaged or cut short: not all of its first 12 records can be read"
    )
    with pytest.raises(UserError, match=message):
        read(folder)
    open_again(folder)  # without reading, nothing is seen
    assert len(read(folder, "train[:20%]")) == 12


@pytest.mark.parametrize("records", [0, 5, 5.5])
def test_a_data_set_of_tfds_whose_file_is_cut_short(folder, records):
    """The evaluation would repeat other images in place of those that are missing, and count all of them."""
    (folder / SIZES).unlink()
    file = shard(folder, 1)
    at = starts(file)
    end = at[int(records)] + (40 if records % 1 else 0)
    file.write_bytes(file.read_bytes()[:end])
    if not records:
        with pytest.raises(UserError, match="00001-of-00005 has 0 bytes, which cannot be 12 records; restore it"):
            open_again(folder)
        return
    with pytest.raises(UserError, match="00001-of-00005 is damaged or cut short: not all of its first 12 records"):
        read(folder)


def cut(folder):
    file = shard(folder, 3)
    file.write_bytes(file.read_bytes()[: starts(file)[-1]])


def counts(*lengths):
    def edit(folder):
        info = json.loads((folder / "dataset_info.json").read_text())
        info["splits"][0]["shardLengths"] = list(map(str, lengths))
        (folder / "dataset_info.json").write_text(json.dumps(info))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            cut,
            r"00003-of-00005 is not the file .*: found [\d,]+ bytes for 12 records, expected [\d,]+ for 12",
        ),
        (
            lambda folder: shutil.copy(shard(folder, 0), shard(folder, 3)),
            "00003-of-00005 is not the file that was written",
        ),
        (lambda folder: shard(folder, 3).unlink(), "00003-of-00005 is missing, or is no file; restore it, or write"),
        (counts(12, 12, 22, 12, 12), r"00002-of-00005 is not .* for 22 records, expected [\d,]+ for 12"),
        (counts(12, 12, 10**18, 12, 12), r"00002-of-00005 is not .* for 1,000,000,000,000,000,000 records"),
        (counts(12, 12, -1, 12, 12), "cannot read split 'train' of photos"),
        (counts(12, 12, 36), "photos-train.tfrecord-00000-of-00003 is missing"),
        (
            lambda folder: (folder / SIZES).write_text("[" * 100_000),
            "shard_sizes.json is damaged; restore it, or delete it",
        ),
        (
            lambda folder: (folder / "label.labels.txt").write_text("ant\nbee\nbee\n"),
            "1.0.0 has 3 names of classes, 2 of them different, for 3 classes; restore the file label.labels.txt",
        ),
        (lambda folder: (folder / "label.labels.txt").write_text("ant\nbee\n"), "has 2 names of classes, .* for 3"),
        (lambda folder: (folder / SIZES).write_text('{"a": 1}'), "shard_sizes.json is damaged"),
        (
            lambda folder: (folder / "dataset_info.json").unlink(),
            r"the metadata of the data set .*photos are missing or damaged \(",
        ),
        (
            lambda folder: (folder / "features.json").write_text("{"),
            r"the metadata of the data set .*photos are missing or damaged",
        ),
    ],
)
def test_what_is_seen_at_the_start(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message):
        open_again(folder)


def test_counts_of_a_data_set_of_tfds(folder):
    (folder / SIZES).unlink()
    counts(12, 12, 10**18, 12, 12)(folder)
    with pytest.raises(
        UserError, match=r"00002-of-00005 has .* bytes, which cannot be 1,000,000,000,000,000,000 records"
    ):
        open_again(folder)


@pytest.mark.parametrize("label", [3, -2])
def test_a_label_that_is_no_class(folder, label):
    (folder / SIZES).unlink()
    rewrite(shard(folder, 0), lambda features: features["label"].int64_list.value.__setitem__(0, label))
    with pytest.raises(
        UserError, match=rf"the record .*00000-of-00005#0 has the label {label}, expected -1 to 2; write"
    ):
        read(folder)
    with pytest.raises(UserError, match=rf"has the label {label}, expected"):
        open_source("photos", str(folder.parents[1]), "train[:30%]", 10).labels()


def test_a_record_without_a_feature(folder):
    (folder / SIZES).unlink()
    rewrite(shard(folder, 0), lambda features: features.pop("label"))
    with pytest.raises(
        UserError, match=r"the input stopped: Feature: label .*is required but could not be found.*; check the files"
    ):
        read(folder)
