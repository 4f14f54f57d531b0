import jax
import pytest

from beit_jax import command
from beit_jax.errors import UserError
from beit_jax.runtime import distributed, membership
from beit_jax.runtime.sign_of_life import Others


def raised(*errors):
    """The last of some errors, each raised while the one before it was handled: with `from` where it is a UserError."""
    last = None
    for error in errors:
        try:
            if last is None:
                raise error
            try:
                raise last
            except Exception as cause:
                if isinstance(error, UserError):
                    raise error from cause
                raise error  # noqa: B904 - as libraries do
        except Exception as made:
            last = made
    return last


FAILED = jax.errors.JaxRuntimeError("UNAVAILABLE: the connection was closed\nmore")
DISK = UserError("a checkpoint could not be written; free some space or repair the disk")


@pytest.fixture
def two_processes(monkeypatch):
    """This process is 0 of two, and 1 has been silent for 9 seconds; the list gets what the others are told."""
    told = []

    def end(status, reason="", without=()):
        told.append((status, reason, list(without)))
        raise SystemExit(status)

    others = Others(None, "", 0, 2)
    monkeypatch.setattr(others, "longest_silent", lambda: (1, 9.0))
    monkeypatch.setattr(distributed, "others", others)
    monkeypatch.setattr(distributed, "client", lambda: others)
    monkeypatch.setattr(membership, "exit_process", end)
    return told


@pytest.mark.parametrize(
    "errors",
    [
        (FAILED,),
        (FAILED, DISK),
        (FAILED, DISK, UserError("stage pretrain: a checkpoint could not be written")),
        (FAILED, ValueError("of a library")),
        (ValueError("Gloo all-reduce failed: Connection closed by peer"), DISK),
    ],
)
def test_the_process_that_is_gone_is_named_in_place_of_what_failed(two_processes, capsys, errors):
    with pytest.raises(SystemExit) as end:
        command._fail(raised(*errors))
    assert end.value.code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: process 1 (") and "has been silent for 9 s, and a communication has failed" in line
    assert ("UNAVAILABLE: the connection was closed)" if FAILED in errors else "Gloo all-reduce failed") in line
    assert line.endswith(membership.HOW_TO_GO_ON) and "disk" not in line
    assert [(status, without) for status, _, without in two_processes] == [(1, [1])]


def test_what_is_no_communication_is_told_at_once(two_processes, capsys, monkeypatch):
    monkeypatch.setattr(membership, "exit_all", lambda status, reason: two_processes.append((status, reason)))
    command._fail(raised(OSError("No space left on device"), DISK))
    assert two_processes == [(2, str(DISK))]
    assert capsys.readouterr().err == f"error: {DISK}\n"


@pytest.mark.parametrize("gone", [lambda: membership._exit_without(1, 20.0), membership._exit_without_service])
def test_a_process_that_is_gone_after_all_have_finished_is_no_error(two_processes, capsys, monkeypatch, gone):
    def end(status):
        raise SystemExit(status)

    monkeypatch.setattr("os._exit", end)
    monkeypatch.setattr(membership, "_all_finished", True)
    with pytest.raises(SystemExit) as ended:
        gone()
    assert ended.value.code == 0 and not two_processes
    assert capsys.readouterr().err == "warning: another process was killed or stopped, after all had finished\n"
