import json

import numpy as np
import pytest

from beit_jax.errors import UserError
from beit_jax.training.metrics_window import Window

BAD = {"loss": (np.float32(0), np.float32(0)), "skipped_steps": (np.float32(1), np.float32(1))}


def good(loss, count=2.0):
    return {"loss": (np.float32(loss), np.float32(count)), "skipped_steps": (np.float32(0), np.float32(1))}


def test_means_over_values_and_not_over_steps():
    window = Window(0)
    window.add({"loss": (np.float32(6), np.float32(2))})
    window.add({"loss": (np.float32(1), np.float32(8))})
    assert window.line(2, None) == {"loss": 0.7}
    window.add({"loss": (np.float32(5), np.float32(1))})
    assert window.line(3, None) == {"loss": 5.0}


def test_a_window_that_was_kept_gives_the_same_line():
    whole, first = Window(3), Window(3)
    steps = [good(0.1), BAD, good(0.7, 3.0), good(1 / 3)]
    for metrics in steps:
        whole.add(metrics)
    for metrics in steps[:2]:
        first.add(metrics)
    assert Window(3).keep(2, None) == {"steps": [], "bad": 0}
    second = Window(3, json.loads(json.dumps(first.keep(2, None))))
    for metrics in steps[2:]:
        second.add(metrics)
    assert second.line(4, None) == whole.line(4, None)


def test_skipped_steps_are_counted_and_bounded():
    window = Window(3)
    for metrics in (good(4.0), BAD, BAD, BAD):
        window.add(metrics)
    assert window.line(4, 2) == {"loss": 2.0, "skipped_steps": 3.0}
    window.add(BAD)  # the fourth in a row, after the line
    with pytest.raises(UserError, match="4 steps in a row between steps 5 and 5, more than max_bad_steps=3; the check"):
        window.line(5, 2)
    window = Window(3)
    for metrics in (BAD, BAD, BAD, good(1.0), BAD, BAD, BAD):
        window.add(metrics)
    assert window.line(7, None)["skipped_steps"] == 6.0
    window = Window(3)
    window.add(BAD)
    assert window.line(1, None) == {"skipped_steps": 1.0}


def test_what_is_not_finite_or_nothing():
    window = Window(0)
    window.add({"loss": (np.float32(np.nan), np.float32(1))})
    with pytest.raises(UserError, match="the loss is nan between steps 9 and 9; the checkpoint of step 5 is finite"):
        window.keep(9, 5)
    window = Window(0)
    window.add({"loss": (np.float32(0), np.float32(0))})
    with pytest.raises(UserError, match="nothing to learn between steps 1 and 1"):
        window.line(1, None)
