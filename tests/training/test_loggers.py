"""Loggers: each real library in its offline mode, over a kill; failures that must not reach the training."""

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

from beit_jax.tasks.report import Table
from beit_jax.training.loggers import background
from beit_jax.training.loggers.background import BackgroundLogger, describe, read_state
from beit_jax.training.loggers.logger import LoggedRun, Logger
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
        self.calls, self.closed = [], 0

    def start(self, run, run_id):
        return run_id or "first"

    def log_scalars(self, step, values):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no route with sesame1234")
        self.calls.append((step, dict(values)))

    def close(self):
        self.closed += 1


def write_run(folder, logger, start_step, steps, *, evaluated=()):
    """Steps of a run that ends without closing its logger, as a kill does, once all is sent."""
    run, opened = logged_run(folder), []

    def open_loggers(past):
        opened.append(BackgroundLogger("service", logger, run, past))
        return opened

    writer = MetricWriter(folder, start_step, open_loggers=open_loggers)
    for step in steps:
        writer.write(step, {"epoch": step / 10, "loss": 1 / step})
        if step in evaluated:
            writer.write_pictures(step, {"masked": np.full((2, 4, 4, 3), 0.5)})
            writer.write_tables(step, {"classes": TABLE})
            writer.write(step, {"epoch": step / 10, "eval/loss": 2 / step})
    return writer, opened[0]


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def rows(steps, evaluated):
    numbers = {step: {"epoch": step / 10, "loss": 1 / step} for step in steps}
    return {step: row | ({"eval/loss": 2 / step} if step in evaluated else {}) for step, row in numbers.items()}


def killed_and_resumed(folder, make, id_of=None):
    """A run of 6 steps, killed after step 4, whose checkpoint is of step 2; returns the identifiers of both starts."""
    write_run(folder, make(), 0, [1, 2, 3, 4], evaluated=[2])
    wait_for(lambda: read_state(folder).get("service", {}).get("step", -1) >= 3)
    first = read_state(folder)["service"]["id"]
    writer, _ = write_run(folder, make(), 2, [3, 4, 5, 6], evaluated=[6])
    writer.close()
    assert read_state(folder)["service"] == {"id": first, "step": 6}
    return first


def test_each_step_is_sent_once_over_a_kill(tmp_path):
    made = []

    def make():
        made.append(Recorder())
        return made[-1]

    killed_and_resumed(tmp_path, make)
    sent = [call for logger in made for call in logger.calls]
    assert sent == sorted(rows([1, 2, 3, 4, 5, 6], [2, 6]).items())
    assert [logger.closed for logger in made] == [0, 1]


def test_a_logger_that_is_added_later_gets_the_earlier_lines(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"epoch": step / 10, "loss": 1 / step})
    writer.close()
    logger = Recorder()
    writer, _ = write_run(tmp_path, logger, 2, [3, 4], evaluated=[4])
    writer.close()
    assert logger.calls == sorted(rows([1, 2, 3, 4], [4]).items())


def test_a_service_that_fails_costs_one_warning_and_no_line(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("SERVICE_API_KEY", "sesame1234")
    logger = Recorder()
    logger.failures = 3
    monkeypatch.setattr(background, "RETRY_S", 0.0)
    writer, _ = write_run(tmp_path, logger, 0, [1, 2, 3])
    for step in range(4, 10):
        writer.write(step, {"epoch": step / 10, "loss": 1 / step})
        time.sleep(0.01)
    writer.write(10, {"epoch": 1.0, "loss": 0.1, "eval/loss": 0.2})
    writer.close()
    assert [step for step, _ in logger.calls] == list(range(1, 11))
    assert caplog.text.count("cannot log to service") == 1
    assert "ConnectionError: no route with $SERVICE_API_KEY" in caplog.text and "sesame" not in caplog.text


def test_a_service_that_hangs_does_not_hold_the_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(background, "CLOSE_S", 0.05)
    logger = Recorder()
    logger.log_scalars = lambda step, values: time.sleep(2)
    start = time.monotonic()
    writer, _ = write_run(tmp_path, logger, 0, range(1, 200), evaluated=[199])
    writer.close()
    assert time.monotonic() - start < 2 and "has not taken all lines" in caplog.text


def test_a_library_that_cannot_be_loaded_costs_one_warning(tmp_path, caplog):
    logger = Recorder()
    logger.load = lambda: 1 / 0
    writer, _ = write_run(tmp_path, logger, 0, [1, 2], evaluated=[2])
    writer.close()
    assert caplog.text.count("cannot log to service (ZeroDivisionError") == 1 and not logger.calls


def test_passwords_in_addresses_are_not_told():
    assert describe(OSError("http://me:hunter2@host/x is down")) == "OSError: http://host/x is down"


def test_a_damaged_state_begins_a_new_log(tmp_path):
    for damage in ("", "[]", '{"service": 3}', '{"service": {"id": 1, "step": 2}}'):
        (tmp_path / background.FILE).write_text(damage)
        assert read_state(tmp_path) == {}


FIRST = """
import os, pathlib, signal, time
from training.test_loggers import wait_for, write_run
from beit_jax.training import loggers
folder = pathlib.Path("FOLDER")
_, running = write_run(folder, loggers.create_logger("NAME"), 0, [1, 2, 3, 4], evaluated=[2])
wait_for(lambda: running._sent >= 3)
os.kill(os.getpid(), signal.SIGKILL)
"""
SECOND = """
import pathlib
from training.test_loggers import write_run
from beit_jax.training import loggers
writer, _ = write_run(pathlib.Path("FOLDER"), loggers.create_logger("NAME"), 2, [3, 4, 5, 6], evaluated=[6])
writer.close()
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
        found.append(read_state(folder)["service"]["id"])
    assert read_state(folder)["service"] == {"id": found[0], "step": 6} and found[0] == found[1]
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
[logger.close() for logger in made]
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
