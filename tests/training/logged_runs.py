"""Runs that write to loggers, and are killed."""

import time

import numpy as np
from patience import PATIENCE_S

from beit_jax.tasks.report import Table
from beit_jax.training.loggers.background import BackgroundLogger
from beit_jax.training.loggers.logger import LoggedRun
from beit_jax.training.loggers.run_loggers import RunLoggers
from beit_jax.training.loggers.saved_state import Saved, read_state
from beit_jax.training.metrics import MetricWriter

TABLE = Table(("class", "top1"), [("cat", 0.5), ("dog", 1.0)])


def logged_run(folder):
    return LoggedRun(folder, "recipe/stage", "recipe", "project-of-tests", {"optimizer.lr": 0.5, "task": "pretrain"})


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
