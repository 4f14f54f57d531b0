import json

import numpy as np
import pytest

from beit_jax.errors import UserError
from beit_jax.training.metrics_window import MetricsWindow

BAD = {"loss": (np.float32(0), np.float32(0)), "skipped_steps": (np.float32(1), np.float32(1))}


def good(loss, count=2.0):
    return {"loss": (np.float32(loss), np.float32(count)), "skipped_steps": (np.float32(0), np.float32(1))}


def test_means_over_values_and_not_over_steps():
    window = MetricsWindow(0)
    window.add({"loss": (np.float32(6), np.float32(2))})
    window.add({"loss": (np.float32(1), np.float32(8))})
    assert window.next_line(2, None) == {"loss": 0.7}
    window.add({"loss": (np.float32(5), np.float32(1))})
    assert window.next_line(3, None) == {"loss": 5.0}


def test_a_saved_window_gives_the_same_line():
    uninterrupted, first = MetricsWindow(3), MetricsWindow(3)
    steps = [good(0.1), BAD, good(0.7, 3.0), good(1 / 3)]
    for metrics in steps:
        uninterrupted.add(metrics)
    for metrics in steps[:2]:
        first.add(metrics)
    assert MetricsWindow(3).to_json(2, None) == {"steps": [], "bad": 0}
    second = MetricsWindow(3, json.loads(json.dumps(first.to_json(2, None))))
    for metrics in steps[2:]:
        second.add(metrics)
    assert second.next_line(4, None) == uninterrupted.next_line(4, None)


def test_skipped_steps_are_counted_and_bounded():
    window = MetricsWindow(3)
    for metrics in (good(4.0), BAD, BAD, BAD):
        window.add(metrics)
    assert window.next_line(4, 2) == {"loss": 2.0, "skipped_steps": 3.0}
    window.add(BAD)  # the fourth in a row, after the line
    with pytest.raises(UserError, match="4 steps in a row between steps 5 and 5, more than max_bad_steps=3; the check"):
        window.next_line(5, 2)
    window = MetricsWindow(3)
    for metrics in (BAD, BAD, BAD, good(1.0), BAD, BAD, BAD):
        window.add(metrics)
    assert window.next_line(7, None)["skipped_steps"] == 6.0
    window = MetricsWindow(3)
    window.add(BAD)
    assert window.next_line(1, None) == {"skipped_steps": 1.0}


def test_what_is_not_finite_or_nothing():
    window = MetricsWindow(0)
    window.add({"loss": (np.float32(np.nan), np.float32(1))})
    with pytest.raises(UserError, match="the loss is nan between steps 9 and 9; the checkpoint of step 5 is finite"):
        window.to_json(9, 5)
    window = MetricsWindow(0)
    window.add({"loss": (np.float32(0), np.float32(0))})
    with pytest.raises(UserError, match="nothing to learn between steps 1 and 1"):
        window.next_line(1, None)
