"""Data sets of tfds in a bucket: the same batches as from a disk, whatever the store does."""

import time

import pytest
import tensorflow_datasets as tfds
from same_data import (
    assert_equal,
    counted,
    eval_batches,
    forget,
    gone_for,
    input_config,
    retries,
    train_batches,
    upload,
)

from beit_jax import local_files
from beit_jax.data import fingerprint
from beit_jax.data.sources import digits, shard_files
from beit_jax.data.sources.data_sets import open_data_set
from beit_jax.data.sources.open_source import open_builder, open_source
from beit_jax.errors import UserError
from beit_jax.runtime import bucket_retries
from beit_jax.runtime.paths import as_path

SHARDS = 20


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    settings = tfds.download.DownloadConfig(num_shards=SHARDS)
    digits.Digits(data_dir=root).download_and_prepare(download_config=settings)
    return root


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BEIT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BEIT_JAX_BUCKET_PATIENCE", "8")
    monkeypatch.setattr(bucket_retries, "LONGEST_WAIT_S", 0.2)
    yield tmp_path / "cache"
    forget()


@pytest.fixture(scope="module")
def sets(on_disk, store):
    """The folder of data sets in the bucket."""
    upload(on_disk, as_path("gs://beit/sets"))
    return "gs://beit/sets"


@pytest.fixture(scope="module")
def expected(on_disk):
    return train_batches(input_config(data_dir=str(on_disk)), 4, start=2)


def test_the_same_batches_with_a_request_for_each_shard(on_disk, sets, cache, store, expected):
    local, remote = input_config(data_dir=str(on_disk)), input_config(data_dir=sets)
    with counted(store) as counts:
        assert_equal(train_batches(remote, 4, start=2), expected)
    assert counts.pop("GET sets/digits/N.N.N/digits-train.tfrecord-N-of-N") == SHARDS
    assert sum(counts.values()) < 20, counts  # for the metadata
    before, now = (fingerprint.describe_split(config, "train[:50%]") for config in (local, remote))
    assert now.pop("contents") and before == now
    copies = [path for path in cache.rglob("*") if path.is_file()]
    assert len(copies) == SHARDS and {path.parent for path in copies} == {cache / "buckets" / "beit"}


@pytest.mark.slow
def test_evaluation_and_another_run_without_a_request(on_disk, sets, cache, store):
    expected, remote = eval_batches(input_config(data_dir=str(on_disk))), input_config(data_dir=sets)
    assert_equal(eval_batches(remote), expected)
    with counted(store) as counts:
        assert_equal(eval_batches(remote), expected)
    assert not counts


def test_the_same_batches_from_a_store_that_fails(sets, cache, store, folder, expected):
    before = retries()
    open_source("digits", sets, "train", 1)
    store.failing = 0.2
    gone_for(store, 2)
    assert_equal(train_batches(input_config(data_dir=sets), 4, start=2), expected)
    assert retries() - before > 16  # each of the first shards was asked for while the store was gone


def test_a_store_that_is_gone(sets, cache, store, folder, monkeypatch):
    monkeypatch.setenv("BEIT_JAX_BUCKET_PATIENCE", "0.5")
    open_source("digits", sets, "train", 1)
    store.is_gone = True
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        train_batches(input_config(data_dir=sets), 2)
    assert time.monotonic() - start < 30
    assert str(error.value).startswith("gs://beit/sets/digits/1.0.0/digits-train.tfrecord-000")
    assert "within 0.5 s" in str(error.value) and "\n" not in str(error.value)


def test_a_shard_that_is_missing_or_is_another(on_disk, folder, cache):
    upload(on_disk, folder)
    shard = folder / "digits/1.0.0/digits-train.tfrecord-00007-of-00020"
    content = shard.read_bytes()
    open_source("digits", str(folder), "train", 1)
    shard.write_bytes(content[:-1] + b"x")
    with pytest.raises(UserError, match=r"tfrecord-00007-of-00020 has changed since this command began: .*again$"):
        train_batches(input_config(data_dir=str(folder)), 2)
    shard.unlink()
    forget()
    with pytest.raises(UserError, match=r"gs://.*tfrecord-00007-of-00020 is missing, or is no file; restore it"):
        open_source("digits", str(folder), "train", 1)
    shard.write_bytes(b"short")
    forget()
    with pytest.raises(UserError, match=r"tfrecord-00007-of-00020 has 5 bytes, which cannot be 72 records"):
        open_source("digits", str(folder), "train", 1)
    (folder / "digits/1.0.0" / shard_files.SIZES).write_bytes(b"[]")
    forget()
    with pytest.raises(UserError, match=r"gs://.*/shard_sizes.json is damaged"):
        open_source("digits", str(folder), "train", 1)


@pytest.mark.parametrize(
    "data_dir, message",
    [
        ("gs://nowhere/sets", "there is no bucket gs://nowhere"),
        ("gs://beit/sets", "data.data_dir=gs://beit/sets has no data set photos; found digits"),
        (
            "gs://beit/nothing",
            "data.data_dir=gs://beit/nothing is not there; expected the folder of prepared data sets",
        ),
        ("s3://beit/sets", "data.data_dir=s3://beit/sets is a URL; expected"),
    ],
)
def test_wrong_folders(sets, cache, data_dir, message):
    with pytest.raises(UserError, match=message) as error:
        local_files._check_data_set("photos", data_dir)
    assert "\n" not in str(error.value)


def test_a_data_set_that_does_not_exist(sets, cache):
    with pytest.raises(UserError, match="there is no data set 'photos'"):
        open_builder("photos", sets)


def test_a_cache_that_cannot_be_written(sets, cache):
    cache.write_text("a file")
    with pytest.raises(
        UserError, match=r"cannot be kept in .*cache/buckets: (Not a directory|File exists); set the env"
    ):
        open_builder("digits", sets)


def test_other_data_sets_are_refused_before_a_request(store):
    for source in ("npz:gs://beit/digits.npz", "tars:gs://beit/train-{000..063}.tar", "hf:gs://beit/hub"):
        with counted(store) as counts, pytest.raises(UserError, match=r"lies in a bucket.* copy it, such as") as error:
            open_data_set(source)
        assert not counts and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"npz:s3://beit/x.npz|s3://beit/x.npz is a URL"):
        open_data_set("npz:s3://beit/x.npz")


@pytest.mark.slow
def test_the_built_in_data_set_is_written_once(on_disk, folder, cache, store):
    with counted(store) as counts:
        assert open_builder("digits", str(folder)).info.splits["train"].num_examples == 1438
    assert any(kind.startswith("POST") for kind in counts)
    forget()
    with counted(store) as counts:
        builder = open_builder("digits", str(folder))
    assert not any(kind.startswith("POST") for kind in counts)
    assert builder.info.features["label"].names == list("0123456789")
