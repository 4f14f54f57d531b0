"""Images on disk, and one op run both ways: eagerly and inside a tf.data graph."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from beit_jax.data.sources import digits


def _picture(seed: int, height: int, width: int) -> np.ndarray:
    """uint8 `[height, width, 3]`: coarse colours with fine noise, so that filters and rounding show."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    return np.clip(np.asarray(coarse, int) + random.integers(-30, 31, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def picture():
    """The function that makes an image from (seed, height, width)."""
    return _picture


@pytest.fixture
def both_ways():
    """Runs an op on features and a seed, eagerly and in a graph; the results must agree and come back as NumPy."""

    def run(op, features, seed):
        seed = tf.constant(seed, tf.int64)
        features = {key: tf.constant(value) for key, value in features.items()}
        eager = {key: value.numpy() for key, value in op(features, seed).items()}
        graph = tf.data.Dataset.from_tensors((features, seed)).map(op).get_single_element()
        assert eager.keys() == graph.keys()
        for key, value in eager.items():
            np.testing.assert_array_equal(value, graph[key].numpy())
        return eager

    return run


@pytest.fixture(scope="session")
def traced():
    """Traces an op once; the result maps features and a seed to NumPy arrays, many times."""

    def trace(op):
        run = tf.function(op, autograph=False)

        def run_once(features, seed):
            features = {key: tf.constant(value) for key, value in features.items()}
            return {key: value.numpy() for key, value in run(features, tf.constant(seed, tf.int64)).items()}

        return run_once

    return trace


@pytest.fixture(scope="session")
def class_folder(tmp_path_factory):
    """Three class folders of 20 images, JPEG and PNG, of many sizes."""
    root = tmp_path_factory.mktemp("classes")
    for label, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir()
        for index in range(20):
            image = Image.fromarray(_picture(100 * label + index, 20 + index, 30 - index))
            image.save(root / name / f"{index:02d}.{'jpg' if index % 2 else 'PNG'}")
    return root


@pytest.fixture(scope="session")
def sharded_dir(tmp_path_factory):
    """Digits in five files, so that file order, skips and interleaving are at work."""
    folder = str(tmp_path_factory.mktemp("sharded"))
    digits.Digits(data_dir=folder).download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=5))
    return folder


@pytest.fixture
def data_config(tmp_path):
    """A config of the input, changed by keywords."""

    def make(**changes):
        fields = dict(
            source="digits",
            data_dir="",
            split="train",
            eval_split="test",
            labels="all",
            repeats=1,
            shuffle_buffer=500,
            max_bad_fraction=0.1,
            ops="decode|flip_lr|random_resized_crop(8)|normalize",
            eval_ops="decode|resize(8)|normalize",
        )
        return SimpleNamespace(**(fields | changes))

    return make
