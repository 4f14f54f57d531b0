"""The lock of a workdir in a bucket, and objects that grow."""

import json
import os
import threading
import time

import pytest

from beit_jax.errors import UserError
from beit_jax.runtime import bucket, bucket_lock, bucket_retries, lock_owner, membership
from beit_jax.runtime.bucket_retries import BucketError
from beit_jax.runtime.growing_object import PART, GrowingObject

BEAT_S = 0.2


@pytest.fixture
def elsewhere(monkeypatch):
    """A function that makes this process one of another machine, which cannot ask about processes of this one."""
    return lambda: monkeypatch.setattr(bucket_lock, "_machine", lambda: "another machine")


def test_a_second_run_is_refused_while_the_first_one_lives(folder):
    message = r"is in use by process \d+ on .*; wait for it, stop it, or choose another"
    with bucket_lock.lock_in_bucket(folder / "lock", BEAT_S / 4), pytest.raises(UserError, match=message):
        bucket_lock._Lock(folder / "lock").acquire(BEAT_S)
    assert not folder.exists()


def test_only_one_of_many_gets_it(folder):
    got, refused, all_tried = [], [], threading.Event()

    def acquire():
        try:
            with bucket_lock.lock_in_bucket(folder / "lock", BEAT_S / 4):
                got.append(1)
                all_tried.wait(30)
        except UserError:
            refused.append(1)
        if len(refused) == 7:
            all_tried.set()

    threads = [threading.Thread(target=acquire) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)


def test_a_process_of_this_machine_that_is_gone(folder, elsewhere):
    """Its lock is taken over at once; one of another machine once it has been silent."""
    dead = bucket_lock._Lock(folder / "lock")
    dead._name |= {"pid": 2**22 + 1}
    dead.acquire(BEAT_S)
    began = time.monotonic()
    with bucket_lock.lock_in_bucket(folder / "lock", BEAT_S):
        assert time.monotonic() - began < BEAT_S
    dead.acquire(BEAT_S)
    elsewhere()
    began = time.monotonic()
    with bucket_lock.lock_in_bucket(folder / "lock", BEAT_S):
        assert time.monotonic() - began >= bucket_lock.SILENT_HEARTBEATS * BEAT_S


def test_a_number_that_another_process_has_now(folder):
    """The same number and another time of start: the process is another one."""
    dead = bucket_lock._Lock(folder / "lock")
    dead._name |= {"started": "1"}
    dead.acquire(BEAT_S)
    with bucket_lock.lock_in_bucket(folder / "lock", BEAT_S):
        assert json.loads((folder / "lock").read_bytes())["pid"] == os.getpid()


def test_an_owner_that_was_only_cut_off_ends(folder, elsewhere, monkeypatch):
    ended = []
    monkeypatch.setattr(membership, "exit_process", lambda status, reason: ended.append((status, reason)))
    first = bucket_lock._Lock(folder / "lock")
    first.acquire(BEAT_S)
    elsewhere()
    bucket_lock._Lock(folder / "lock").acquire(BEAT_S)
    done = threading.Event()
    thread = threading.Thread(target=first.keep, args=(done, BEAT_S))
    thread.start()
    time.sleep(3 * BEAT_S)
    done.set()
    thread.join()
    assert ended[0][0] == 2 and "was taken over by process" in ended[0][1]
    first.release()
    assert (folder / "lock").exists()  # the other one's


def test_answers_that_get_lost(store, folder, monkeypatch):
    """A write that was done, and is repeated, is refused: the owner finds its own name, and goes on."""
    monkeypatch.setattr(bucket_retries, "LONGEST_WAIT_S", 0.1)
    ended = []
    monkeypatch.setattr(membership, "exit_process", lambda *reason: ended.append(reason))
    with bucket_lock.lock_in_bucket(folder / "lock", BEAT_S / 4):
        store.cut = 0.3
        time.sleep(3)
        store.cut = 0.0
        time.sleep(2 * BEAT_S)
    assert not ended and not (folder / "lock").exists()


def test_something_else_is_called_lock(folder):
    (folder / "lock").write_text("no lock")
    with bucket_lock.lock_in_bucket(folder / "lock", BEAT_S):
        pass


@pytest.mark.parametrize("fault", ["", "failing", "cut"])
def test_an_object_grows_whatever_the_store_does(store, folder, monkeypatch, fault):
    monkeypatch.setattr(bucket_retries, "LONGEST_WAIT_S", 0.1)
    if fault:
        setattr(store, fault, 0.3)
    path, expected = folder / "lines", b""
    for begin in range(2):  # the second writer finds what the first one has left
        growing = GrowingObject(path, interval_s=0.01)
        for number in range(8):
            line = f"{begin} {number}\n".encode()
            growing.write(line)
            expected += line
            if number % 3 == 0:
                growing.flush()
                assert path.read_bytes() == expected
        growing.close()
    store.failing = store.cut = 0.0
    assert path.read_bytes() == expected
    assert [path.name for path in folder.iterdir()] == ["lines"] and PART not in str(list(folder.iterdir()))


def test_lines_wait_while_the_store_is_gone(store, folder, monkeypatch, caplog):
    monkeypatch.setenv(bucket_retries.PATIENCE_VARIABLE, "0.5")
    growing = GrowingObject(folder / "lines", interval_s=0.1)
    growing.write(b"first\n")
    growing.flush()
    store.is_gone = True
    for number in range(3):
        growing.write(b"%d\n" % number)
        growing.flush()
    store.is_gone = False
    growing.close()
    assert (folder / "lines").read_text() == "first\n0\n1\n2\n"
    messages = [record.getMessage() for record in caplog.records]
    assert sum("the run goes on, and tries it again" in message for message in messages) == 1
    assert "can be written again" in messages[-1]


def test_something_else_writes_to_it(folder, caplog):
    growing = GrowingObject(folder / "lines", interval_s=0.1)
    growing.write(b"first\n")
    growing.flush()
    (folder / "lines").write_text("another one's, and longer\n")
    growing.write(b"second\n")
    growing.flush()
    growing.close()
    assert (folder / "lines").read_text() == "another one's, and longer\n"
    assert "has changed" in caplog.text or "something else writes to it" in caplog.text


def test_a_part_that_arrives_late_is_not_joined(folder, monkeypatch):
    """An upload that was given up reaches the store after the one that followed it."""
    growing, call = GrowingObject(folder / "lines", interval_s=0.1), bucket.call
    growing.write(b"first\n")
    growing.flush()
    late = [b"old bytes\n"]

    def call_with_delay(path, request, *args, **settings):
        if request.__name__ == "compose" and late:
            (folder / f"lines{PART}").write_bytes(late.pop())
        return call(path, request, *args, **settings)

    monkeypatch.setattr(bucket, "call", call_with_delay)
    growing.write(b"second\n")
    growing.close()
    assert not late and (folder / "lines").read_text() == "first\nsecond\n"


def test_tensorboard_sees_one_file(folder):
    """It takes each name with "tfevents" in it for a file, and reads no earlier one any more."""
    path = folder / "events.000001.out.tfevents.1.host"
    growing = GrowingObject(path, interval_s=0.01)
    for number in range(2):
        growing.write(b"%d" % number)
        growing.flush()
    names = [name for name in folder.objects() if name != path.name]
    growing.close()
    assert names and not any("tfevents" in name for name in names)


def test_a_lock_that_is_lost_where_nobody_can_say_to_whom(folder, monkeypatch):
    ended = []
    monkeypatch.setattr(membership, "exit_process", lambda status, reason: ended.append(reason))
    owned, done = bucket_lock._Lock(folder / "lock"), threading.Event()
    owned.acquire(BEAT_S)
    bucket.blob(folder / "lock").upload_from_string(json.dumps({"id": "another"}))

    def silent():
        raise BucketError("no answer")

    seen = iter([owned._read, silent])
    monkeypatch.setattr(owned, "_read", lambda: next(seen)())
    monkeypatch.setattr(lock_owner, "end_without_lock", lambda path, owner: (ended.append(owner), done.set()))
    owned.keep(done, 0.01)
    assert ended == [{}]
