"""Counts by class against plain NumPy, with ties, padding and any number of classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.tasks import confusion
from beit_jax.tasks.accuracy import hits


def counted(logits, labels, valid):
    right = hits(logits, labels)["top1"]
    return jax.device_get(confusion.count_classes(logits, labels, right, valid))


def test_counts_are_those_of_numpy(monkeypatch):
    """300 classes, so that the label 255 is one; the diagonal is what top-1 counts."""
    random, classes = np.random.default_rng(0), 300
    logits = random.normal(size=(64, classes)).astype(np.float32)
    labels = np.r_[255, 0, classes - 1, random.integers(0, classes, 61)].astype(np.int32)
    logits[np.arange(0, 64, 2), labels[::2]] = 9.0  # right
    logits[4] = 0.0  # a tie with all others: wrong
    logits[6] = np.nan
    valid = np.arange(64) < 60
    found = counted(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(valid))
    expected = np.zeros((classes, classes), np.int64)
    for row in np.flatnonzero(valid):
        tied = row in (4, 6)
        others = np.delete(np.arange(classes), labels[row])
        expected[labels[row], others[0] if tied else logits[row].argmax()] += 1
    np.testing.assert_array_equal(found["confusion"], expected)
    assert np.trace(expected) == 28
    monkeypatch.setattr(confusion, "LARGEST", classes - 1)
    large = counted(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(valid))
    assert set(large) == {"classes"}
    for some, others in zip(confusion.labelled_and_right(large), confusion.labelled_and_right(found), strict=True):
        np.testing.assert_array_equal(some, others)


def test_top5_is_told_only_where_it_tells_something():
    for classes, names in ((2, {"top1"}), (5, {"top1"}), (6, {"top1", "top5"})):
        assert set(hits(jnp.zeros((1, classes)), jnp.zeros(1, jnp.int32))) == names


def test_numbers_and_tables_of_a_classifier():
    config = tiny("classify")
    config.model.num_classes, config.labels = 3, ("ant", "bee", "cat")
    task, counts = tasks.create_task(config), np.array([[2.0, 1, 0], [0, 5, 0], [0, 0, 0]])
    sums = {"confusion": counts, "loss": (4.0, 8.0), "top1": (7.0, 8.0)}
    assert task.summarize(sums) == {"loss": 0.5, "top1": 0.875, "majority": 0.625, "images": 8.0}
    tables = task.tables(sums)
    assert tables["classes"].columns == ("class", "images", "right", "accuracy")
    assert tables["classes"].rows == [("ant", 3, 2, pytest.approx(2 / 3)), ("bee", 5, 5, 1.0), ("cat", 0, 0, "")]
    assert tables["confusion"].columns == ("true class", "ant", "bee", "cat")
    assert tables["confusion"].rows == [("ant", 2, 1, 0), ("bee", 0, 5, 0), ("cat", 0, 0, 0)]
    many = {"classes": np.array([[3.0, 5, 0], [2, 5, 0]]), "loss": (4.0, 8.0)}
    assert task.tables(many) == {"classes": tables["classes"]} and task.summarize(many)["majority"] == 0.625


def test_tables_of_a_segmentation():
    """Classes without names have numbers; a class that neither is there nor is predicted has no IoU."""
    counts = np.array([[3.0, 1, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]])
    tables = tasks.create_task(tiny("segment")).tables({"confusion": counts, "pixels": 100.0, "images": 1.0})
    rows = [("0", 4, 0.75, 0.75), ("1", 4, 0.8, 1.0), ("2", 0, "", ""), ("3", 2, 1.0, 1.0)]
    assert tables["classes"].rows == rows and tables["confusion"].rows[0] == ("0", 3, 1, 0, 0)
