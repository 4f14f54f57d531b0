"""Copies of objects on this machine: fetched once, bounded, never deleted while they are in use."""

import errno
import os
import subprocess
import sys
import threading
import time

import pytest
from same_data import counted, forget

from beit_jax.errors import UserError
from beit_jax.runtime import bucket, bucket_cache, bucket_retries
from beit_jax.runtime.cache_folder import size_limit
from beit_jax.runtime.paths import as_path

SIZE = 100_000


@pytest.fixture
def files(folder, tmp_path, monkeypatch):
    """Ten objects, a cache of their own, and a process that uses two of them at a time."""
    monkeypatch.setenv("BEIT_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(bucket_cache, "_in_use", bucket_cache._InUse())
    monkeypatch.setattr(bucket_cache, "IN_USE", 2)
    for number in range(10):
        (folder / f"{number}").write_bytes(bytes([number]) * SIZE)
    forget()
    return [f"{folder}/{number}" for number in range(10)]


def kept(tmp_path):
    """The first bytes of the copies."""
    return sorted(path.read_bytes()[0] for path in (tmp_path / "buckets").rglob("*") if path.is_file())


def test_each_object_is_fetched_once_by_many_threads(files, store, tmp_path):
    found = []
    with counted(store) as counts:
        threads = [threading.Thread(target=lambda: found.append(bucket_cache.fetched(files[3]))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(found)) == 1 and found[0].read_bytes() == bytes([3]) * SIZE
    assert counts.pop("GET list") == 1 and sum(counts.values()) == 1


def test_the_least_recently_used_make_room(files, store, tmp_path, monkeypatch):
    monkeypatch.setenv("BEIT_JAX_CACHE_GB", str(4.5 * SIZE / 1e9))
    for number in (0, 1, 2, 3, 0, 4, 5):
        bucket_cache.fetched(files[number])
        time.sleep(0.01)
    assert kept(tmp_path) == [0, 3, 4, 5]
    with counted(store) as counts:
        for number in (5, 4, 0, 3):
            bucket_cache.fetched(files[number])
    assert not counts


HOLD = "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_SH); print(flush=True); input()"


def test_files_in_use_are_not_deleted(files, store, tmp_path, monkeypatch):
    monkeypatch.setenv("BEIT_JAX_CACHE_GB", "0")
    copy = bucket_cache.fetched(files[7])
    command = [sys.executable, "-c", HOLD, copy]  # as another process of the package does it
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        for number in range(6):
            bucket_cache.fetched(files[number])
        assert kept(tmp_path) == [3, 4, 5, 7]  # the one of the other, and two and the next of this process
        other.communicate(b"\n")
    bucket_cache.fetched(files[0])
    assert kept(tmp_path) == [0, 4, 5]


def test_what_a_killed_process_left_is_removed(files, tmp_path):
    bucket_cache.fetched(files[0])
    (leftover := tmp_path / "buckets" / "beit" / "x.part-0123").write_bytes(b"x" * SIZE)
    bucket_cache.fetched(files[1])
    assert not leftover.exists()


def test_damaged_copies_are_fetched_again(files, store):
    copy = bucket_cache.fetched(files[0])
    copy.write_bytes(b"short")
    assert bucket_cache.fetched(files[0]).read_bytes() == bytes([0]) * SIZE


def test_an_object_that_has_changed_is_another_file(files, store):
    old = bucket_cache.fetched(files[0])
    as_path(files[0]).write_bytes(b"other")
    assert bucket_cache.fetched(files[0]) == old  # within one process, data do not change
    forget()
    assert bucket_cache.fetched(files[0]).read_bytes() == b"other" != old.read_bytes()


def test_errors(files, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="/nothing does not exist; restore it"):
        bucket_cache.fetched(files[0].removesuffix("0") + "nothing")
    bucket_cache.fetched(files[0])
    as_path(files[1]).unlink()
    with pytest.raises(UserError, match="/1 was deleted since this command began"):
        bucket_cache.fetched(files[1])
    monkeypatch.setenv("BEIT_JAX_CACHE_GB", "many")
    with pytest.raises(UserError, match="found BEIT_JAX_CACHE_GB=many; expected a number of GB, such as 200"):
        bucket_cache.check_folder()
    monkeypatch.setenv("BEIT_JAX_CACHE_GB", "200")
    assert size_limit(0) == 200 * 10**9
    monkeypatch.delenv("BEIT_JAX_CACHE_GB")
    assert 0 < size_limit(0) < size_limit(2 * 10**12)


def test_a_full_disk(files, monkeypatch):
    async def full(*args, **settings):
        bucket_retries.fail(files[0], OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    monkeypatch.setattr(type(bucket.file_system()), "_get_file_request", full)
    with pytest.raises(
        UserError, match=r"cannot be kept in .*: No space left on device; set the environment variable BEIT"
    ):
        bucket_cache.fetched(files[0])
