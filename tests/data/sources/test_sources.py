import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from beit_jax.data.features import ID
from beit_jax.data.sources.label_subset import choose_examples
from beit_jax.data.sources.listed import ListedSource
from beit_jax.data.sources.open_source import open_source
from beit_jax.data.sources.source import Shard
from beit_jax.errors import UserError

ALONE = Shard()


@pytest.fixture(params=["folder", "sharded", "few"])
def source(request, class_folder, sharded_dir):
    if request.param == "folder":
        return open_source(f"folder:{class_folder}", "", "train", 0)
    if request.param == "sharded":
        return open_source("digits", sharded_dir, "train[10%:50%]", 100)
    return few(open_source("digits", sharded_dir, "train", 100), 7, seed=1)


def few(source, per_class, seed):
    return source.take(choose_examples(source.labels(), source.num_classes, f"{per_class} per class", seed))


def names(source, seed, epoch=0, start=0, shard=ALONE):
    raw = source.raw(seed, tf.constant(epoch, tf.int64), tf.constant(start, tf.int64), shard)
    records = raw.map(lambda *element: source.record(element[0] if len(element) == 1 else element))
    return [record[ID] for record in records.as_numpy_iterator()]


def test_an_epoch_is_a_permutation(source):
    epochs = [names(source, 5, 0), names(source, 5, 1), names(source, 6, 0), names(source, None)]
    assert len(epochs[0]) == source.num_examples
    assert all(set(order) == set(epochs[0]) and len(set(order)) == len(order) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 4
    assert names(source, 5, 0) == epochs[0]


def test_start_skips(source):
    assert names(source, 5, 1, start=11) == names(source, 5, 1)[11:]


def test_shards_cover_the_split_once(source):
    for seed in (None, 5):
        parts = [names(source, seed, 0, shard=Shard(index, 3)) for index in range(3)]
        assert sorted(name for part in parts for name in part) == sorted(names(source, None))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_records_hold_encoded_bytes(source):
    raw = next(iter(source.raw(None, tf.constant(0, tf.int64), tf.constant(0, tf.int64), ALONE)))
    record = source.record(raw)
    assert tf.io.decode_image(record["image"]).shape[-1] in (1, 3)
    assert record["label"].dtype == tf.int64


def test_shuffled_positions_are_even():
    # Over many epochs every record comes about equally often in every place.
    source = ListedSource([b""] * 10, [0] * 10, ["name"] * 10, 1, in_files=False)
    zero = tf.constant(0, tf.int64)
    epochs = tf.data.Dataset.range(2000).flat_map(lambda epoch: source.raw(3, epoch, zero, ALONE))
    orders = np.array(list(epochs.as_numpy_iterator())).reshape(2000, 10)
    counts = np.stack([np.bincount(column, minlength=10) for column in orders.T])
    assert np.abs(counts - 200).max() < 70  # five standard deviations of an even choice


def test_few_labels(class_folder, sharded_dir):
    for name in (f"folder:{class_folder}", "digits"):
        whole = open_source(name, sharded_dir, "train", 100)
        some = few(whole, 4, seed=0)
        assert some.num_examples == 4 * whole.num_classes
        raw = some.raw(None, tf.constant(0, tf.int64), tf.constant(0, tf.int64), ALONE)
        labels = [int(record["label"]) for record in raw.map(some.record)]
        assert np.bincount(labels).tolist() == [4] * whole.num_classes
        chosen = names(some, None)
        assert set(chosen) <= set(names(whole, None))
        assert chosen == names(few(whole, 4, seed=0), None)
        assert set(chosen) != set(names(few(whole, 4, seed=1), None))
        with pytest.raises(UserError, match=r"expected at least 500 for data\.labels"):
            few(whole, 500, seed=0)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("nosuchset", "train", "there is no data set 'nosuchset'"),
        ("cifar10", "train", r"cifar10 is not prepared in .*; run: tfds build cifar10 --data_dir="),
        ("digits", "validation", r"cannot read split 'validation' of digits, which has train \(1438\), test \(359\)"),
        ("digits", "train[5%", "cannot read split"),
        ("folder:/nowhere/at/all", "train", "there is no folder"),
    ],
)
def test_mistakes(sharded_dir, name, split, message):
    with pytest.raises(UserError, match=message) as error:
        open_source(name, sharded_dir, split, 100)
    assert "\n" not in str(error.value)


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Thirty pictures whose level tells which they are; with `labels` also their class."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None
    labels = True

    def _info(self):
        features = {"image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"), "extra": np.int64}
        if self.labels:
            features["label"] = tfds.features.ClassLabel(names=["round", "square", "flat"])
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for index in range(30):
            example = {"image": np.full((4 + index % 3, 5, 3), index, np.uint8), "extra": index}
            yield index, example | ({"label": index % 3} if self.labels else {})


class Unlabelled(Shapes):
    labels = False


class Numbers(Shapes):
    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"x": np.int64}))

    def _generate_examples(self):
        yield from ((index, {"x": index}) for index in range(4))


def prepare(builder, folder, **settings):
    builder(data_dir=folder, **settings).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=4)
    )


def level_and_label(source):
    zero = tf.constant(0, tf.int64)
    records = source.raw(None, zero, zero, ALONE).map(lambda *raw: source.record(raw)).as_numpy_iterator()
    return [(int(tf.io.decode_png(record["image"])[0, 0, 0]), int(record["label"])) for record in records]


def test_tfds_names(tmp_path):
    for builder, classes in ((Shapes, 3), (Unlabelled, 1)):
        prepare(builder, tmp_path)
        halves = []
        for split, count in (("train", 30), ("train[:50%]", 15), ("train[50%:]", 15)):
            source = open_source(builder.name, str(tmp_path), split, 100)
            assert (source.num_examples, source.num_classes) == (count, classes)
            halves.append(level_and_label(source))
            assert all(label == level % classes for level, label in halves[-1])
        assert sorted(halves[0]) == sorted(halves[1] + halves[2])
        assert sorted(level for level, _ in halves[0]) == list(range(30))


def test_datasets_without_images_or_in_other_files(tmp_path):
    prepare(Numbers, tmp_path)
    with pytest.raises(UserError, match="numbers has the features x; expected an image named 'image'"):
        open_source("numbers", str(tmp_path), "train", 100)
    prepare(Shapes, tmp_path, file_format="array_record")
    with pytest.raises(UserError, match="shapes is stored as array_record, expected tfrecord; prepare it again"):
        open_source("shapes", str(tmp_path), "train", 100)


def test_an_empty_slice(sharded_dir):
    with pytest.raises(UserError, match=r"found no examples in 'train\[:0\]' of digits"):
        open_source("digits", sharded_dir, "train[:0]", 100)
