"""Services that show the log of a run, beside its own files."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from beit_jax.config.loggers import LOGGERS
from beit_jax.config.serialization import flatten
from beit_jax.training.loggers.background import BackgroundLogger
from beit_jax.training.loggers.logger import LoggedRun, Logger, Status
from beit_jax.training.loggers.mlflow_logger import MlflowLogger
from beit_jax.training.loggers.trackio_logger import TrackioLogger
from beit_jax.training.loggers.wandb_logger import WandbLogger

__all__ = ["LoggedRun", "Logger", "Status", "create_logger", "open_loggers", "register_logger"]

_LOGGERS: dict[str, type[Logger]] = {"wandb": WandbLogger, "trackio": TrackioLogger, "mlflow": MlflowLogger}


def open_loggers(
    folder: Path, stage: str, config: ConfigDict, past: Sequence[Mapping[str, Any]]
) -> list[BackgroundLogger]:
    """The loggers of a run, each in a thread of its own.

    Args:
      folder: of the run.
      stage: its name in a recipe; empty for a run that is not part of one.
      config: of the run.
      past: lines that the run has written before.
    """
    if not config.loggers:
        return []
    path = folder.resolve()
    group = path.parent.name if stage else ""
    run = LoggedRun(path, f"{group}/{path.name}" if group else path.name, group, config.project, flatten(config))
    return [BackgroundLogger(name, functools.partial(create_logger, name), run, past) for name in config.loggers]


def create_logger(name: str) -> Logger:
    """The logger of a name.

    Raises:
      UserError: it is unknown.
    """
    LOGGERS.find(name)
    return _LOGGERS[name]()


def register_logger(name: str, libraries: Sequence[str] = ()) -> Callable[[type[Logger]], type[Logger]]:
    """A decorator that makes a logger of a file of your own known to configs.

    Args:
      name: of the logger, for `config.loggers`.
      libraries: that it imports: a run is refused where one of them is not installed.

    Examples:
      >>> from beit_jax.config import keys_of
      >>> from beit_jax.training.loggers import Logger, register_logger
      >>> @register_logger("print", libraries=["json"])
      ... class Print(Logger):
      ...     pass
      >>> keys_of("classify")["loggers"].validate("loggers", ("print",))
    """

    def add(logger: type[Logger]) -> type[Logger]:
        LOGGERS.register(name, tuple(libraries))
        _LOGGERS[name] = logger
        return logger

    return add
