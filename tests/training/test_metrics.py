"""The log of a run: damaged lines, and files that cannot be written."""

import json
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorboardX.proto import event_pb2

from beit_jax.errors import UserError
from beit_jax.training import metrics
from beit_jax.training.metrics import MetricWriter, read_metrics


@pytest.mark.parametrize(
    "damage",
    [b'{"step": 2, "lo', b"\xff\xfe", b"[1, 2]", b'"text"', b'{"loss": 1.0}', b'{"step": "2"}', b"", b"[" * 100_000],
)
def test_a_damaged_line_costs_that_line(tmp_path, damage):
    good = [{"step": step, "loss": 0.5} for step in (1, 3, 4)]
    first, *rest = (json.dumps(line).encode() for line in good)
    file = tmp_path / metrics.FILE
    file.write_bytes(b"\n".join([first, damage, *rest]))
    with pytest.warns(UserWarning, match=r"line 2 of .*metrics.jsonl cannot be read and is left out"):
        assert read_metrics(file) == good
    with pytest.warns(UserWarning, match="line 2"):
        MetricWriter(tmp_path, start_step=3).close()
    assert read_metrics(file) == good[:2]


def test_a_last_line_that_a_kill_cut_off_is_no_damage(tmp_path):
    (tmp_path / metrics.FILE).write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_metrics(tmp_path / metrics.FILE) == [{"step": 1}]


def scalars(folder):
    """What TensorBoard shows of the metric "loss": `[(step, value)]`, without what a file of a later name replaces."""
    found = []
    for file in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = event_pb2.Event.FromString(record)
            if event.session_log.status == event_pb2.SessionLog.START:
                found = [(step, value) for step, value in found if step < event.step]
            found += [(event.step, value.simple_value) for value in event.summary.value if value.tag == "loss"]
    return found


@pytest.mark.parametrize("clock", [2e9, 1e9, 1e8, -1e8])
def test_tensorboard_goes_on_where_the_run_does(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(time, "time", lambda: 1.8e9)
    writer = MetricWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"loss": step / 2})
    writer.write_pictures(3, {"picture": np.zeros((2, 4, 4, 3))})
    writer.close()
    monkeypatch.setattr(time, "time", lambda: clock)
    writer = MetricWriter(tmp_path, start_step=1)  # killed after a checkpoint of step 1
    writer.write(2, {"loss": 5.0})
    writer.close()
    assert scalars(tmp_path / "tensorboard") == [(1, 0.5), (2, 5.0)]
    assert (tmp_path / "pictures" / "picture.png").stat().st_size > 100


def test_what_cannot_be_written_does_not_end_a_run(tmp_path, caplog):
    threads = threading.active_count()
    writer = MetricWriter(tmp_path)
    for name in ("tensorboard", "pictures", "tables"):
        (tmp_path / name).write_text("a file in place of the folder")
    for step in range(1, 100):
        writer.write(step, {"loss": 1.0})
    writer.write_pictures(99, {"picture": np.zeros((2, 4, 4, 3))})
    assert caplog.text.count("the run goes on") == 2
    (tmp_path / "tensorboard").unlink()
    writer.write(100, {"loss": 2.0})
    writer.close()
    assert scalars(tmp_path / "tensorboard") == [(100, 2.0)]
    assert [line["step"] for line in read_metrics(tmp_path / metrics.FILE)] == list(range(1, 101))
    assert threading.active_count() == threads


def test_a_log_that_cannot_be_written_is_an_error_at_the_start(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run/metrics.jsonl cannot be written"):
        MetricWriter(tmp_path / "file" / "run")
