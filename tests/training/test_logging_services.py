"""Each real library in its offline mode, over a kill."""

import importlib.util
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from logged_runs import logged_run

from beit_jax.training.loggers.logger import Status
from beit_jax.training.loggers.saved_state import Saved, read_state


def needs(library):
    missing = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(missing, reason=f"{library} is not installed: pip install -e '.[{library}]'")


FIRST = """
import os, pathlib, signal, time
from training.logged_runs import wait_for, write_run
from beit_jax.training import loggers
folder = pathlib.Path("FOLDER")
_, _, running = write_run(folder, loggers.create_logger("NAME"), 0, [1, 2, 3, 4], evaluated=[2])
wait_for(lambda: running._sent >= 3)
os.kill(os.getpid(), signal.SIGKILL)
"""
SECOND = """
import pathlib
from training.logged_runs import write_run
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
from training.logged_runs import logged_run
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
