"""Loggers over a kill, and failures of services, which must not reach the training."""

import contextlib
import dataclasses
import sys
import time

import pytest
from logged_runs import killed_and_resumed, logged_run, rows, wait_for, write_run

from beit_jax.training.loggers import background, run_loggers
from beit_jax.training.loggers.background import BackgroundLogger, Item
from beit_jax.training.loggers.error_text import describe
from beit_jax.training.loggers.logger import Logger, Status
from beit_jax.training.loggers.run_loggers import RunLoggers
from beit_jax.training.loggers.saved_state import FILE, read_state
from beit_jax.training.metrics import MetricWriter


class Recorder(Logger):
    """Keeps what it is given; fails as often as `failures` says."""

    failures = 0

    def __init__(self):
        self.calls, self.closed = [], []

    def start(self, run, run_id):
        return run_id or "first"

    def log_scalars(self, step, values):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no route with sesame1234")
        self.calls.append((step, dict(values)))

    def close(self, status):
        self.closed.append(status)


def test_each_step_is_sent_once_over_a_kill(tmp_path):
    made = []

    def make():
        made.append(Recorder())
        return made[-1]

    killed_and_resumed(tmp_path, make)
    sent = [call for logger in made for call in logger.calls]
    assert sent == sorted(rows([1, 2, 3, 4, 5, 6], [2, 6]).items())
    assert [logger.closed for logger in made] == [[], [Status.FINISHED]]


def test_a_logger_that_is_added_later_gets_the_earlier_lines(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"epoch": step / 10, "loss": 1 / step})
    writer.close()
    logger = Recorder()
    _, loggers, _ = write_run(tmp_path, logger, 2, [3, 4], evaluated=[4])
    loggers.close()
    assert logger.calls == sorted(rows([1, 2, 3, 4], [4]).items())


def test_a_service_that_fails_costs_one_warning_and_no_line(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("SERVICE_API_KEY", "sesame1234")
    logger = Recorder()
    logger.failures = 3
    monkeypatch.setattr(background, "RETRY_S", 0.0)
    writer, loggers, _ = write_run(tmp_path, logger, 0, [1, 2, 3])
    for step in range(4, 10):
        writer.write(step, {"epoch": step / 10, "loss": 1 / step})
        time.sleep(0.01)
    writer.write(10, {"epoch": 1.0, "loss": 0.1, "eval/loss": 0.2})
    loggers.close()
    assert [step for step, _ in logger.calls] == list(range(1, 11))
    assert caplog.text.count("cannot log to service") == 1
    assert "ConnectionError: no route with $SERVICE_API_KEY" in caplog.text and "sesame" not in caplog.text


def test_a_service_that_hangs_does_not_hold_the_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run_loggers, "CLOSE_S", 0.05)
    logger = Recorder()
    logger.log_scalars = lambda step, values: time.sleep(2)
    start = time.monotonic()
    _, loggers, _ = write_run(tmp_path, logger, 0, range(1, 200), evaluated=[199])
    loggers.close()
    assert time.monotonic() - start < 2 and "service has not taken the lines of 199 steps" in caplog.text


def test_a_library_that_cannot_be_loaded_costs_one_warning(tmp_path, caplog):
    logger = Recorder()
    logger.load = lambda: sys.exit("no library")
    _, loggers, _ = write_run(tmp_path, logger, 0, [1, 2], evaluated=[2])
    loggers.close()
    assert [record.getMessage() for record in caplog.records] == [
        "cannot log to service (SystemExit: no library); the run goes on without it"
    ]
    caplog.clear()
    running = BackgroundLogger("service", lambda: 1 / 0, logged_run(tmp_path))
    running.end(Status.FINISHED)
    running.wait(time.monotonic() + 60)
    assert "cannot log to service (ZeroDivisionError" in caplog.text and not logger.calls


class Refusing(Recorder):
    """Takes no pictures, and no numbers of step 2."""

    def log_scalars(self, step, values):
        if step == 2:
            raise TypeError("of this step")
        super().log_scalars(step, values)

    def log_pictures(self, step, pictures):
        raise TypeError("of pictures")

    log_tables = log_pictures


@pytest.mark.parametrize("attempts", [1, 5])
def test_what_is_refused_blocks_no_later_line(tmp_path, monkeypatch, caplog, attempts):
    monkeypatch.setattr(background, "RETRY_S", 0.0)
    monkeypatch.setattr(background, "ATTEMPTS", attempts)
    logger = Refusing()
    writer, loggers, _ = write_run(tmp_path, logger, 0, [1, 2, 3, 4], evaluated=[1])
    for step in range(5, 30):
        writer.write(step, {"loss": 1.0, "eval/loss": 1.0})
        time.sleep(0.005)
    wait_for(lambda: logger.calls and logger.calls[-1][0] == 29)  # before the end
    loggers.close()
    assert [step for step, _ in logger.calls] == [1, *range(3, 30)] and logger.closed == [Status.FINISHED]
    for words in ("the pictures of step 1", "the tables of step 1", "the numbers of step 2"):
        assert f"service does not take {words} (TypeError: of" in caplog.text
    assert "has not taken" not in caplog.text


def test_the_end_tells_how_many_lines_are_missing_and_closes_the_log(tmp_path, caplog):
    logger = Recorder()
    logger.failures = 1000
    _, loggers, _ = write_run(tmp_path, logger, 0, [1, 2, 3], evaluated=[3])
    loggers.close()
    assert "service has not taken the lines of 3 steps" in caplog.text and logger.closed == [Status.FINISHED]


@pytest.mark.parametrize(
    ("error", "status", "last"),
    [(None, Status.FINISHED, 2), (SystemExit(0), Status.STOPPED, 1), (ValueError(), Status.FAILED, 2)],
)
def test_a_log_is_told_how_its_run_has_ended(tmp_path, error, status, last):
    logger = Recorder()
    with contextlib.suppress(SystemExit, ValueError), contextlib.ExitStack() as stack:
        _, loggers, _ = write_run(tmp_path, logger, 0, [1, 2])
        stack.enter_context(loggers)
        if error:
            raise error
    assert logger.closed == [status] and logger.calls[-1][0] == last


def test_all_lines_of_before_are_logged_however_many(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(background, "PENDING", 3)
    logger, past = Recorder(), [{"step": step, "loss": 1.0} for step in range(1, 21)]
    running = BackgroundLogger("service", lambda: logger, logged_run(tmp_path), past)
    running.end(Status.FINISHED)
    running.wait(time.monotonic() + 60)
    assert [step for step, _ in logger.calls] == list(range(1, 21)) and not caplog.text


def test_lines_that_are_left_out_are_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(background, "PENDING", 3)
    logger = Recorder()
    logger.failures = 1000
    _, loggers, _ = write_run(tmp_path, logger, 0, range(1, 11))
    loggers.close()
    assert "more than 3 lines wait for service" in caplog.text and "has not taken the lines of 10 steps" in caplog.text


def test_all_logs_end_within_one_time(tmp_path, monkeypatch):
    monkeypatch.setattr(run_loggers, "STOPPED_S", 0.2)

    def hanging():
        logger = Recorder()
        logger.log_scalars = lambda step, values: time.sleep(3)
        return logger

    loggers = RunLoggers(
        lambda past: [BackgroundLogger(f"s{i}", hanging, logged_run(tmp_path), past) for i in range(4)]
    )
    loggers.open([])
    loggers.submit(Item("log_scalars", 1, {"eval/loss": 1.0}))
    start = time.monotonic()
    loggers.close(Status.STOPPED)
    assert time.monotonic() - start < 0.6


def test_another_project_begins_a_new_log(tmp_path):
    made = [Recorder(), Recorder()]
    write_run(tmp_path, made[0], 0, [1, 2], evaluated=[2])[1].close()
    run = dataclasses.replace(logged_run(tmp_path), project="other")
    past = [{"step": step, "eval/loss": 1.0} for step in (1, 2)]
    running = BackgroundLogger("service", lambda: made[1], run, past)
    running.end(Status.FINISHED)
    running.wait(time.monotonic() + 60)
    assert [step for step, _ in made[1].calls] == [1, 2] and read_state(tmp_path)["service"].project == "other"


def test_secrets_in_addresses_are_not_told(monkeypatch):
    for address, told in {
        "http://me:hunter2@host/x is down": "http://host/x is down",
        "http://h:7860?write_token=hunter2": "http://h:7860?...",
        "postgresql://me:hun@ter/2@db/x": "postgresql://db/x",
        "HTTPPool(host='h') exceeded with url: /api?a=1&token=hunter2 (Caused": "HTTPPool(host='h') exceeded with url: "
        "/api?... (Caused",
    }.items():
        assert describe(OSError(address)) == f"OSError: {told}"
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://h:7860/hunter2")
    assert describe(OSError("no http://h:7860/hunter2")) == "OSError: no $TRACKIO_SERVER_URL"


def test_a_damaged_state_begins_a_new_log(tmp_path):
    for damage in ("", "[]", '{"service": 3}', '{"service": {"id": 1, "step": 2, "project": "p"}}'):
        (tmp_path / FILE).write_text(damage)
        assert read_state(tmp_path) == {}
