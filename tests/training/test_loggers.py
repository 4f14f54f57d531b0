"""Loggers: each real library in its offline mode, over a kill; failures that must not reach the training."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE_S

from beit_jax.tasks.report import Table
from beit_jax.training.loggers import background, run_loggers
from beit_jax.training.loggers.background import BackgroundLogger, Item
from beit_jax.training.loggers.error_text import describe
from beit_jax.training.loggers.logger import LoggedRun, Logger, Status
from beit_jax.training.loggers.run_loggers import RunLoggers
from beit_jax.training.loggers.saved_state import FILE, Saved, read_state
from beit_jax.training.metrics import MetricWriter

TABLE = Table(("class", "top1"), [("cat", 0.5), ("dog", 1.0)])


def needs(library):
    missing = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(missing, reason=f"{library} is not installed: pip install -e '.[{library}]'")


def logged_run(folder):
    return LoggedRun(folder, "recipe/stage", "recipe", "project-of-tests", {"optimizer.lr": 0.5, "task": "pretrain"})


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


def write_run(folder, logger, start_step, steps, *, evaluated=()):
    """Steps of a run that ends without closing its logger, as a kill does; returns what is open."""
    run, opened = logged_run(folder), []

    def open_loggers(past):
        opened.append(BackgroundLogger("service", lambda: logger, run, past))
        return opened

    loggers = RunLoggers(open_loggers)
    writer = MetricWriter(folder, start_step, loggers=loggers)
    for step in steps:
        writer.write(step, {"epoch": step / 10, "loss": 1 / step})
        if step in evaluated:
            writer.write_pictures(step, {"masked": np.full((2, 4, 4, 3), 0.5)})
            writer.write_tables(step, {"classes": TABLE})
            writer.write(step, {"epoch": step / 10, "eval/loss": 2 / step})
    return writer, loggers, opened[0]


def wait_for(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def rows(steps, evaluated):
    numbers = {step: {"epoch": step / 10, "loss": 1 / step} for step in steps}
    return {step: row | ({"eval/loss": 2 / step} if step in evaluated else {}) for step, row in numbers.items()}


def killed_and_resumed(folder, make, id_of=None):
    """A run of 6 steps, killed after step 4, whose checkpoint is of step 2; returns the identifiers of both starts."""
    write_run(folder, make(), 0, [1, 2, 3, 4], evaluated=[2])
    wait_for(lambda: read_state(folder).get("service", Saved()).step >= 3)
    first = read_state(folder)["service"].id
    _, loggers, _ = write_run(folder, make(), 2, [3, 4, 5, 6], evaluated=[6])
    loggers.close()
    assert read_state(folder)["service"] == Saved(first, 6, "project-of-tests")
    return first


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


FIRST = """
import os, pathlib, signal, time
from training.test_loggers import wait_for, write_run
from beit_jax.training import loggers
folder = pathlib.Path("FOLDER")
_, _, running = write_run(folder, loggers.create_logger("NAME"), 0, [1, 2, 3, 4], evaluated=[2])
wait_for(lambda: running._sent >= 3)
os.kill(os.getpid(), signal.SIGKILL)
"""
SECOND = """
import pathlib
from training.test_loggers import write_run
from beit_jax.training import loggers
_, opened, _ = write_run(pathlib.Path("FOLDER"), loggers.create_logger("NAME"), 2, [3, 4, 5, 6], evaluated=[6])
opened.close()
"""
LOSSES = [(step, 1 / step) for step in range(1, 7)]


def python(script, folder, **environment):
    """Runs a script in a process of its own, where it can import this file."""
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | environment | {"PYTHONPATH": f"{root}:{root}/tests"},
    )


def real_run(name, folder, **environment):
    """As `killed_and_resumed`, with a real library, in processes of their own, of which SIGKILL ends the first."""
    found = []
    for script, code in ((FIRST, -signal.SIGKILL), (SECOND, 0)):
        done = python(script.replace("FOLDER", str(folder)).replace("NAME", name), folder, **environment)
        assert done.returncode == code, done.stderr
        assert "cannot log" not in done.stderr, done.stderr
        found.append(read_state(folder)["service"].id)
    assert read_state(folder)["service"] == Saved(found[0], 6, "project-of-tests") and found[0] == found[1]
    return found[0]


@needs("mlflow")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of its SQLAlchemy
def test_mlflow(tmp_path):
    import mlflow

    address = f"sqlite:///{tmp_path}/mlflow.db"
    run_id = real_run("mlflow", tmp_path, MLFLOW_TRACKING_URI=address)
    client = mlflow.MlflowClient(address)
    history = client.get_metric_history(run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == LOSSES
    assert [point.step for point in client.get_metric_history(run_id, "eval/loss")] == [2, 6]
    found = client.get_run(run_id)
    assert found.data.params["optimizer.lr"] == "0.5" and found.data.tags["group"] == "recipe"
    assert found.info.run_name == "recipe/stage" and found.info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(run_id, "pictures")] == ["pictures/masked.png"]
    assert client.list_artifacts(run_id, "tables")[0].path == "tables/classes.csv"


@needs("mlflow")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_begins_one_run_and_a_new_one_where_it_is_gone(tmp_path, monkeypatch):
    import mlflow

    from beit_jax.training.loggers.mlflow_logger import MlflowLogger

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    logger, run = MlflowLogger(), logged_run(tmp_path)
    logger.load()
    send = logger._client.log_batch
    logger._client.log_batch = lambda *args, **kwargs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        logger.start(run, None)
    logger._client.log_batch = send
    first = logger.start(run, None)
    logger.log_scalars(1, {"eval/acc@5": 0.5, "//a:b": 1.0})
    logger.close(Status.STOPPED)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("project-of-tests").experiment_id
    (found,) = client.search_runs([experiment])
    assert found.info.run_id == first and found.info.status == "KILLED" and found.data.params["optimizer.lr"] == "0.5"
    assert found.data.metrics == {"eval/acc_5": 0.5, "_a_b": 1.0}
    again = MlflowLogger()
    again.load()
    assert again.start(run, first) == first
    client.delete_run(first)
    for gone in (first, "0" * 32):
        other = MlflowLogger()
        other.load()
        assert other.start(run, gone) not in (first, gone)


@needs("trackio")
@pytest.mark.slow
def test_trackio(tmp_path, monkeypatch):
    name = real_run("trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    (file,) = (tmp_path / "trackio").rglob("project-of-tests*.db")
    with sqlite3.connect(file) as database:
        found = database.execute("select step, metrics from metrics where run_name = ?", [name]).fetchall()
    values = [(step, json.loads(text)) for step, text in found]
    assert sorted((step, row["loss"]) for step, row in values if "loss" in row) == LOSSES
    assert sorted(step for step, row in values if "eval/loss" in row) == [2, 6]
    assert 6 in {step for step, row in values if "pictures/masked" in row}


@needs("wandb")
@pytest.mark.slow
def test_wandb(tmp_path):
    run_id = real_run("wandb", tmp_path, WANDB_MODE="offline")
    found = [row for file in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")) for row in read_wandb(file)]
    assert [(step, row["loss"]) for step, row in found] == LOSSES
    assert [step for step, row in found if "eval/loss" in row] == [2, 6]
    assert found[-1][1]["pictures/masked/_type"] == "image-file"
    folders = {folder.name.rpartition("-")[2] for folder in (tmp_path / "wandb").glob("offline-run-*")}
    assert folders == {run_id}


STAGES = """
import pathlib
from training.test_loggers import logged_run
from beit_jax.training import loggers
made = [loggers.create_logger("wandb") for _ in range(2)]
for logger in made:
    logger.load()
print([logger.start(logged_run(pathlib.Path("FOLDER")), None) == logger._new_id for logger in made])
[logger.close(loggers.Status.FINISHED) for logger in made]
"""


@needs("wandb")
@pytest.mark.slow
def test_a_stage_does_not_log_into_the_run_of_an_earlier_one(tmp_path):
    done = python(STAGES.replace("FOLDER", str(tmp_path)), tmp_path, WANDB_MODE="offline")
    assert "[True, True]" in done.stdout, done.stderr
    assert len({folder.name.rpartition("-")[2] for folder in (tmp_path / "wandb").glob("offline-run-*")}) == 2


@needs("wandb")
def test_wandb_takes_tables_with_a_class_without_images():
    from beit_jax.tasks import confusion, segmentation_metrics
    from beit_jax.training.loggers.wandb_logger import WandbLogger

    counts, names = np.diag([2, 0, 3]), ("cat", "dog", "cow")
    images = confusion.class_table(names, counts.sum(1), np.diag(counts))
    pixels = segmentation_metrics.class_table(names, np.asarray(counts, np.float64))
    logger = WandbLogger()
    logger.log_tables(1, {"images": images, "pixels": pixels})
    assert logger._more["tables/images"].data[1] == ["dog", 0, 0, None]
    assert logger._more["tables/pixels"].data[1] == ["dog", 0, None, None]


def read_wandb(file):
    """The history in the file of an offline run, `[(step, values)]`: the library's records, in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    content, at, part, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no header fits into the rest of the block
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        part, at = part + content[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # full, last
            record = wandb_internal_pb2.Record.FromString(part)
            part = b""
            if record.WhichOneof("record_type") == "history":
                items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                found.append((record.history.step.num, items))
    return found
