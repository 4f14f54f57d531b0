"""Writes that may fail without ending a run, on a disk that is full for a while."""

import errno
import resource

import pytest

from beit_jax.runtime.line_file import LineFile
from beit_jax.runtime.optional_writes import OptionalWrites


@pytest.fixture
def no_growth(monkeypatch):
    """A function that forbids the process files of more than so many bytes, as a full disk does; undone at the end."""
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_failures_are_said_once_until_a_write_succeeds(caplog):
    writes = OptionalWrites("a file")
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail():
        raise full

    assert [writes.attempt(write) for write in (fail, fail, list, fail)] == [False, False, True, False]
    messages = [record.getMessage() for record in caplog.records]
    failed = "cannot write a file ([Errno 28] No space left on device); the run goes on, and tries it again"
    assert messages == [failed, "a file can be written again", failed]


def test_other_errors_are_raised():
    with pytest.raises(ZeroDivisionError):
        OptionalWrites("a file").attempt(lambda: 1 / 0)


def test_lines_that_did_not_fit_are_written_later_and_none_by_halves(tmp_path, no_growth):
    path = tmp_path / "lines"
    file = LineFile(path)
    file.append("first")
    no_growth(10)
    file.append("second")
    file.append("third")
    assert path.read_text() == "first\n"
    no_growth(None)
    file.append("fourth")
    assert path.read_text() == "first\nsecond\nthird\nfourth\n"
    no_growth(30)
    file.append("fifth")
    no_growth(None)
    file.close()
    assert path.read_text().splitlines()[-1] == "fifth"
