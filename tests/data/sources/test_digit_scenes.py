import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

from beit_jax.data import pipeline
from beit_jax.data.sources import digit_scenes
from beit_jax.data.sources.digits import held_out
from beit_jax.data.sources.open_source import open_source

OPS = (
    "decode|random_ratio_resize(32, 128, 0.75, 1.5)|random_segment_crop(32)|flip_lr|photometric_distortion|normalize"
    "|pad_to(32, 32)|keep('image', 'label_map')"
)
EVAL_OPS = "decode|resize_within(32, 128)|normalize|pad_for_evaluation(32, 32, 32)"


@pytest.fixture(scope="module")
def scenes_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("scenes"))


def stacked(split, count):
    images, labels = zip(*digit_scenes.scenes(split, count), strict=True)
    return np.stack(images), np.stack(labels)


def test_scenes_are_always_the_same():
    images, labels = stacked("train", 50)
    again = stacked("train", 60)
    np.testing.assert_array_equal(images, again[0][:50])
    np.testing.assert_array_equal(labels, again[1][:50])
    assert not np.array_equal(images, stacked("test", 50)[0])
    assert len({image.tobytes() for image in again[0]}) == 60
    counts = [8500, 84, 111, 193, 287, 184, 54, 262, 277, 228, 60]
    assert np.bincount(labels[:10].ravel()).tolist() == counts  # published figures depend on these scenes


def test_scenes_are_well_mixed():
    images, labels = stacked("train", 300)
    assert images.dtype == labels.dtype == np.uint8 and labels.max() == 10
    shares = np.bincount(labels.ravel(), minlength=11) / labels.size
    assert 0.75 < shares[0] < 0.88 and (shares[1:] > 0.01).all()
    classes = [len(np.unique(label_map)) - 1 for label_map in labels]
    assert min(classes) >= 1 and {2, 3, 4} <= set(classes)
    grey = images.mean(-1)
    contrast = [abs(scene[ink].mean() - scene[~ink].mean()) for scene, ink in zip(grey, labels > 0, strict=True)]
    assert np.mean(np.array(contrast) > 25) > 0.95


@pytest.mark.parametrize("split", ["train", "test"])
def test_splits_share_no_digits(monkeypatch, split):
    scans = sklearn.datasets.load_digits()
    others = held_out(scans.target) != (split == "test")
    expected = stacked(split, 30)
    scans.images[others] = 16.0  # all ink, if one of them were drawn
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: scans)
    for found, before in zip(stacked(split, 30), expected, strict=True):
        np.testing.assert_array_equal(found, before)


def test_labels_lie_on_the_ink(monkeypatch):
    scans = sklearn.datasets.load_digits()
    scans.images[scans.target != 7] = 0
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: scans)
    _, labels = stacked("train", 40)
    assert set(np.unique(labels)) == {0, 8}
    scans.images[:] = 0
    scans.images[:, 2:6, 2:6] = 16
    images, labels = stacked("train", 40)
    for image, label_map in zip(images.astype(float), labels, strict=True):
        inked = label_map > 0
        # The squares are half as large as the digits: of 12 to 16 pixels, 6 to 8, less what lies under another.
        assert 30 <= inked.sum() <= 4 * 81
        assert image[inked].std(0).min() >= 0 and abs(image[inked].mean() - image[~inked].mean()) > 10


def decoded(encoded):
    return tf.io.decode_png(encoded).numpy().tobytes()


@pytest.mark.parametrize(("split", "count"), [("train", 1000), ("test", 200)])
def test_source(scenes_dir, split, count):
    source = open_source("digit_scenes", scenes_dir, split, 100)
    assert (source.num_examples, source.num_classes) == (count, 11)
    zero = tf.constant(0, tf.int64)
    records = source.raw(None, zero, zero, pipeline.Shard()).map(lambda *raw: source.record(raw))
    found = {(decoded(record["image"]), decoded(record["label_map"])) for record in records}
    assert found == {(image.tobytes(), labels.tobytes()) for image, labels in digit_scenes.scenes(split, count)}


@pytest.mark.slow
def test_batches(data_config, scenes_dir):
    config = data_config(source="digit_scenes", data_dir=scenes_dir, ops=OPS, eval_ops=EVAL_OPS)
    stream = pipeline.make_train(config, seed=0, batch_size=50)
    assert (stream.num_classes, stream.steps_per_epoch) == (11, 20)
    for _ in range(3):
        batch = next(stream)
        assert batch["image"].shape == (50, 32, 32, 3) and batch["image"].dtype == np.float32
        assert batch["label_map"].shape == (50, 32, 32) and batch["label_map"].dtype == np.int32
        assert set(np.unique(batch["label_map"])) == {*range(11), 255}
    rows = list(pipeline.make_eval(config, batch_size=64))
    expected = {labels.tobytes() for _, labels in digit_scenes.scenes("test", 200)}
    found = [labels for batch in rows for labels in batch["label_map"][batch["valid"]]]
    assert len(found) == 200 and {labels.astype(np.uint8).tobytes() for labels in found} == expected
    assert all((batch["size"] == 32).all() and (batch["label_size"] == 32).all() for batch in rows)
