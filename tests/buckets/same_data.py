"""The same data on a disk and in a bucket, and what the input makes of them."""

import contextlib
import itertools
import threading
import time
from types import SimpleNamespace

import numpy as np
from PIL import Image

from beit_jax.data import pipeline
from beit_jax.data.sources.open_source import _open_folder, _open_in_bucket
from beit_jax.runtime import bucket_listing, bucket_retries

OPS = "decode|flip_lr|resize(8)|normalize"


def input_config(**changes):
    """A config of the input, changed by keywords."""
    fields = dict(source="digits", data_dir="", split="train", eval_split="test", labels="all", repeats=1)
    fields |= dict(shuffle_buffer=100, max_bad_fraction=0.1, ops=OPS, eval_ops="decode|resize(8)|normalize")
    return SimpleNamespace(**(fields | changes))


def save_images(root, *names):
    """Writes images of different sizes and contents."""
    random = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (*random.integers(9, 30, 2), 3), np.uint8)
        Image.fromarray(pixels).save(root / name, format="PNG" if name.lower().endswith("png") else "JPEG")


def upload(root, target):
    """Copies all files of a folder into a bucket."""
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        (target / file.relative_to(root).as_posix()).write_bytes(file.read_bytes())
    forget()


def forget():
    """What this process knows of data in buckets."""
    bucket_listing.forget_listings()
    _open_folder.cache_clear()
    _open_in_bucket.cache_clear()


def train_batches(config, steps, start=0, **settings):
    """Some batches to train on."""
    settings = dict(seed=3, batch_size=16, start_step=start) | settings
    return list(itertools.islice(pipeline.make_train(config, **settings), steps))


def eval_batches(config, **settings):
    """All batches to evaluate on."""
    return list(pipeline.make_eval(config, **(dict(batch_size=16) | settings)))


def assert_equal(found, expected):
    """Compares batches bit for bit."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@contextlib.contextmanager
def counted(store):
    """Yields a dict, which has the requests that the block made, by method and kind, when it ends.

    Without the one by which gcsfs learns the kind of a bucket, once in a process.
    """
    start, counts = len(store.requests), {}
    yield counts
    counts |= store.counts(start)
    counts.pop("GET bucket", None)


def gone_for(store, seconds):
    """The store is gone from now on until it was asked in vain, and for some seconds after that."""
    store.is_gone, before = True, retries()

    def come_back():
        while retries() == before:
            time.sleep(0.01)
        time.sleep(seconds)
        store.is_gone = False

    threading.Thread(target=come_back, daemon=True).start()


def retries():
    """How many requests this process has made again."""
    return sum(bucket_retries.RETRIES.counts().values())
