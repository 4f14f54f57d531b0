"""A bucket for the tests of this folder."""

import contextlib

import object_store
import pytest

from beit_jax.runtime import bucket_retries
from beit_jax.runtime.paths import as_path


@contextlib.contextmanager
def _connected(store):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TENSORSTORE_GCS_HTTP_URL", "GOOGLE_AUTH_TOKEN_FOR_TESTING"):  # which `bucket.prepare` sets
            patch.setenv(name, "")
            patch.delenv(name)
        for name, value in store.environment().items():
            patch.setenv(name, value)
        forget_connections()
        yield
    forget_connections()


@pytest.fixture(scope="session")
def connected():
    """A function: within its block, this process and those that it starts use a store."""
    return _connected


@pytest.fixture(scope="module")
def store():
    """A store with the bucket `beit`, for a whole file; each test has a folder of its own in it."""
    with object_store.serve() as store, _connected(store):
        yield store


def forget_connections():
    """The next use of a bucket connects anew: each file of tests has a store of its own."""
    from beit_jax.runtime import bucket

    for cached in (bucket.prepare, bucket.file_system, bucket.client):
        cached.cache_clear()


@pytest.fixture
def folder(store, request):
    """A folder in the bucket; afterwards, the store does nothing wrong any more."""
    yield as_path(f"gs://beit/{request.node.name}")
    store.failing = store.cut = 0.0
    store.is_gone, store.refusal = False, 0


@pytest.fixture(scope="module")
def disk(store, tmp_path_factory):
    """The folder of `stored_runs`, of which the bucket has a copy."""
    from stored_runs import fill

    root = tmp_path_factory.mktemp("disk")
    fill(root)
    return root


@pytest.fixture
def short_patience(monkeypatch):
    """What fails for good does so within seconds; afterwards, nothing is known of data in buckets."""
    from same_data import forget  # which needs TensorFlow

    monkeypatch.setenv(bucket_retries.PATIENCE_VARIABLE, "8")
    monkeypatch.setattr(bucket_retries, "LONGEST_WAIT_S", 0.2)
    yield
    forget()
