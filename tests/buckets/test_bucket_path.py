"""Paths in a bucket behave as those on a disk do, and requests that fail are made again."""

import pytest
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import TransportError

from beit_jax.errors import UserError
from beit_jax.runtime import bucket, bucket_reads, bucket_retries
from beit_jax.runtime.atomic_write import atomic_write, write_text
from beit_jax.runtime.bucket_path import is_incomplete, local_copy, uploaded
from beit_jax.runtime.bucket_retries import BucketError
from beit_jax.runtime.checkpoint_folder import has_checkpoint
from beit_jax.runtime.paths import as_path, local_path
from beit_jax.workdir import read_result

NAMES = ["a.txt", "[1] b*?.json", "sub/c.json", "sub/deep/é ü.txt", "sub/deep/#%25.txt"]


def fill(folder):
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


@pytest.mark.parametrize("name", ["plain", "[0-9] odd*name"])
def test_the_same_answers_as_from_a_disk(folder, tmp_path, name):
    seen = []
    for top in (tmp_path / "[x]" / name, folder / "[x]" / name):
        fill(top)
        patterns = ("*", "*.json", "*/*.json", "sub/*", "nothing*")
        seen.append(
            {pattern: sorted(path.relative_to(top).as_posix() for path in top.glob(pattern)) for pattern in patterns}
            | {"all": sorted(path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file())}
            | {"list": sorted(path.name for path in top.iterdir())}
            | {"text": [(top / name).read_text() for name in NAMES]}
            | {"kinds": [((top / n).exists(), (top / n).is_dir(), (top / n).is_file()) for n in ("sub", "a.txt", "no")]}
        )
        moved = (top / "sub").rename(top / "moved")
        (top / "a.txt").unlink()
        (top / "a.txt").unlink(missing_ok=True)
        seen[-1]["later"] = sorted(path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file())
        assert (moved / "c.json").read_text() == "sub/c.json" and not (top / "sub").exists()
        with pytest.raises(FileNotFoundError):
            (top / "no").read_text()
    assert seen[0] == seen[1]
    (folder / "[x]").rmtree()
    assert not (folder / "[x]").exists()


def test_parents_end_at_the_bucket():
    path = as_path("gs://beit/a/b")
    assert [str(parent) for parent in path.parents] == ["gs://beit/a", "gs://beit"]
    assert str(path.absolute()) == str(path.resolve()) == str(path.expanduser()) == "gs://beit/a/b"


@pytest.mark.parametrize("url", ["s3://beit/run", "gs://", "gs:///run", "https://example.com/x"])
def test_other_urls(url):
    with pytest.raises(UserError, match=r"expected .*gs://BUCKET/NAME"):
        as_path(url)


def test_files_and_folders_appear_whole(folder, tmp_path):
    write_text(folder / "x.txt", "first")
    with pytest.raises(ZeroDivisionError), atomic_write(folder / "x.txt") as part:
        part.write_text("second")
        raise ZeroDivisionError
    assert (folder / "x.txt").read_text() == "first"
    with atomic_write(folder / "made") as part:
        fill(part)
    assert sorted((folder / "made").objects()) == sorted(NAMES) and not is_incomplete(folder / "made")
    copy = local_copy(folder / "made")
    assert {name: (copy / name).read_text() for name in NAMES} == {name: name for name in NAMES}
    assert local_copy(folder / "x.txt").read_text() == "first"
    with pytest.raises(FileNotFoundError):
        local_copy(folder / "nothing")
    some = local_copy(folder / "made", "a.txt", "sub/c.json")
    assert sorted(path.relative_to(some).as_posix() for path in some.rglob("*.*")) == ["a.txt", "sub/c.json"]
    assert some.name == "made" and some != copy == local_path(folder / "made")
    assert local_path(tmp_path) == tmp_path


def test_a_folder_that_is_being_uploaded_says_so(store, folder, monkeypatch):
    monkeypatch.setenv(bucket_retries.PATIENCE_VARIABLE, "1")
    with pytest.raises(BucketError), uploaded(folder / "cut") as part:
        fill(part)
        put, done = bucket.file_system().put_file, []

        def stop(local, remote):
            store.is_gone = len(done) > 1
            done.append(put(local, remote))

        monkeypatch.setattr(bucket.file_system(), "put_file", stop, raising=False)
    store.is_gone = False
    assert is_incomplete(folder / "cut")


@pytest.mark.parametrize("fault", ["failing", "cut"])
def test_requests_are_made_again_and_counted(store, folder, fault, monkeypatch):
    monkeypatch.setattr(bucket_retries, "LONGEST_WAIT_S", 0.1)
    before, begun = sum(bucket_retries.RETRIES.counts().values()), len(store.requests)
    setattr(store, fault, 0.3)
    for number in range(20):
        (folder / "x").write_text(str(number))
        assert (folder / "x").read_text() == str(number)
    (folder / "x").unlink()
    assert not (folder / "x").exists()
    faults = sum(request.status in (0, 503) for request in store.requests[begun:])
    counted = sum(bucket_retries.RETRIES.counts().values()) - before
    assert faults > 5
    # A connection that ends before an answer may be one that was kept open too long: aiohttp itself tries again once.
    assert counted == faults if fault == "failing" else 0 < counted <= faults


def test_a_store_that_is_gone(store, folder, monkeypatch):
    monkeypatch.setenv(bucket_retries.PATIENCE_VARIABLE, "1")
    store.is_gone = True
    with pytest.raises(BucketError, match=r"did not do what it was asked within 1 s .* run the same command again"):
        (folder / "x").read_text()


def test_access(store, monkeypatch):
    bucket.check_access("--out=", "gs://beit/new", writes=True)
    assert not as_path("gs://beit/new").exists()
    with pytest.raises(UserError, match="--out=gs://missing/x: there is no bucket gs://missing; make it"):
        bucket.check_access("--out=", "gs://missing/x", writes=True)
    for status, advice in ((403, "no right to do that; give it"), (401, "gcloud auth application-default login")):
        monkeypatch.setattr(store, "refusal", status)
        with pytest.raises(UserError, match=advice):
            bucket.check_access("--out=", "gs://beit/x", writes=True)
        with pytest.raises(BucketError, match=advice):
            as_path("gs://beit/x").read_text()


@pytest.mark.parametrize("status", [401, 403])
def test_an_error_is_no_answer(store, folder, monkeypatch, status):
    """A store that refuses does not say that a run was never trained: its files would be cleared for another config."""
    (folder / "result.json").write_text("{}")
    monkeypatch.setattr(store, "refusal", status)
    questions = (read_result, has_checkpoint, type(folder).is_dir, type(folder).exists, lambda x: (x / "a").is_file())
    for ask in questions:
        with pytest.raises(BucketError):
            ask(folder)


def test_deleting_where_google_s_store_would_take_a_hundred_names_at_once(store, folder, monkeypatch):
    """There, what is gone already is an error like others; a deletion that is repeated must be none."""
    monkeypatch.setattr(type(bucket.file_system()), "on_google", True)
    fill(folder)
    begun = len(store.requests)
    (folder / "nothing").unlink(missing_ok=True)
    folder.rmtree()
    assert not folder.exists()
    paths = {request.path for request in store.requests[begun:] if request.method != "GET"}
    assert all("/o/" in path for path in paths), paths


def test_objects_without_a_byte_and_without_a_name(folder):
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "full.jpg").write_bytes(b"0123456789")
    bucket.call(folder, bucket.client().bucket("beit").blob(f"{folder.name}/sub/").upload_from_string, b"")
    paths = [str(folder / name) for name in ("empty.jpg", "full.jpg", "none.jpg")]
    assert bucket_reads.read_objects(paths, most=4) == [b"", b"0123", None]
    assert sorted(folder.objects()) == ["empty.jpg", "full.jpg"]
    assert sorted(path.name for path in local_copy(folder).rglob("*")) == ["empty.jpg", "full.jpg"]


def test_without_a_project(monkeypatch):
    import google.auth

    bucket.client.cache_clear()
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    for name in ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(google.auth, "default", lambda *args, **settings: (AnonymousCredentials(), None))
    with pytest.raises(UserError, match=r"--out=gs://beit/x: no project .* gcloud config set project NAME"):
        bucket.check_access("--out=", "gs://beit/x", writes=True)
    bucket.client.cache_clear()


def test_a_network_that_is_lost_while_credentials_are_renewed():
    assert bucket_retries.policy()["predicate"](TransportError("no route"))
    assert not bucket_retries.policy()["predicate"](ValueError("a mistake"))
