"""Data sets of tfds in a bucket: the same batches as from a disk, whatever the store does."""

import pytest
import tensorflow_datasets as tfds
from same_data import assert_equal, counted, eval_batches, forget, input_config, retries, train_batches, upload

from beit_jax.data.sources import digits
from beit_jax.errors import UserError
from beit_jax.runtime import bucket_cache


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    settings = tfds.download.DownloadConfig(num_shards=20)
    digits.Digits(data_dir=root).download_and_prepare(download_config=settings)
    return root


@pytest.fixture
def in_bucket(on_disk, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("BEIT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BEIT_JAX_BUCKET_PATIENCE", "5")
    upload(on_disk, folder)
    return input_config(data_dir=str(folder))


def test_the_same_batches(on_disk, in_bucket, store, tmp_path):
    local = input_config(data_dir=str(on_disk))
    with counted(store) as counts:
        assert_equal(train_batches(in_bucket, 5, start=2), train_batches(local, 5, start=2))
    print(counts)
    with counted(store) as counts:
        assert_equal(eval_batches(in_bucket), eval_batches(local))
    print(counts)
