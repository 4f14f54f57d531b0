"""What a logger is: the log of one run at a service, such as Weights & Biases."""

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beit_jax.tasks.report import Table


class Status(enum.Enum):
    """How a run has ended."""

    FINISHED = "finished"
    STOPPED = "stopped"  # by a signal; the same command continues it
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class LoggedRun:
    """What a logger is told of a run.

    Attributes:
      folder: of the run.
      name: that people see: of the folder, or STAGE of a recipe behind the name of the recipe's folder.
      group: the name of the recipe's folder; empty for a run that is not part of a recipe.
      project: that the run belongs to.
      config: all keys, flattened: `{"optimizer.lr": 0.001}`. It holds no secrets: no key takes any.

    Examples:
      >>> from beit_jax.training.loggers import LoggedRun
      >>> run = LoggedRun(Path("runs/digits/pretrain"), "digits/pretrain", "digits", "beit_jax", {"seed": 0})
      >>> run.config["seed"]
      0
    """

    folder: Path
    name: str
    group: str
    project: str
    config: Mapping[str, Any]


class Logger:
    """The log of one run at a service.

    Attributes:
      settles_s: seconds after which a kill of the training no longer loses what was logged. What was logged less than
        that before a kill is logged again, and a service that does not compare steps then has it twice.

    All methods but `load` are called from one thread that does nothing else: they may take as long as they like. They
    may raise whatever they like: what was not logged is tried again later, and the training goes on meanwhile. What
    fails while a later thing succeeds is left out. Keys, tokens and addresses of a service belong into its own
    environment variables or files, never into the config.

    Examples:
      >>> from beit_jax.training.loggers import Logger
      >>> class Print(Logger):
      ...     def start(self, run, run_id):
      ...         return run_id or run.name
      ...
      ...     def log_scalars(self, step, values):
      ...         print(step, values)
      >>> Print().log_scalars(50, {"loss": 1.5})
      50 {'loss': 1.5}
    """

    settles_s = 0.0

    def load(self) -> None:
        """Imports the library, in the main thread, and asks no network.

        CPython 3.11 cannot parse Python in two threads at once (`SystemError: AST constructor recursion depth
        mismatch`, which can hit either thread): tf.data does so in the main thread, libraries while they are imported.
        """

    def start(self, run: LoggedRun, run_id: str | None) -> str:
        """Begins the log, or goes on with an earlier one; called again if it raises, and must not begin two logs then.

        Args:
          run: that is logged.
          run_id: what `start` returned when the run began; None at the first start, and in a new project.

        Returns:
          The identifier of the log at the service. If it is another one than `run_id`, such as where the service has
          that log no longer, all lines are logged again.
        """
        raise NotImplementedError

    def last_step(self) -> int | None:
        """The last step whose numbers the service has, after `start`; None: the one that was sent last.

        A library that keeps lines in memory for a while loses them in a kill, and says here which it has.
        """
        return None

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs all numbers of a step, once for each step, in the order of the steps."""
        raise NotImplementedError

    def log_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Logs pictures, uint8 `[h, w, 3]`, by name, before the numbers of the same step."""

    def log_tables(self, step: int, tables: Mapping[str, Table]) -> None:
        """Logs tables by name, before the numbers of the same step."""

    def close(self, status: Status) -> None:
        """Ends the log; it may be continued later. Called once after `start`, also if something could not be logged."""
