"""Trackio. `TRACKIO_DIR`, `TRACKIO_SPACE_ID` and the other variables of the library hold."""

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from beit_jax.tasks.report import Table
from beit_jax.training.loggers.logger import LoggedRun, Logger, Status


class TrackioLogger(Logger):
    """See `Logger`. The library finds a run again by its name, which therefore ends with a random number."""

    def __init__(self) -> None:
        self._suffix = secrets.token_hex(3)  # one for all attempts to start
        self._more: dict[str, Any] = {}  # pictures and tables, which are logged with the numbers of their step

    def load(self) -> None:
        """See `Logger.load`."""
        import pandas  # noqa: F401
        import trackio  # noqa: F401

    def start(self, run: LoggedRun, run_id: str | None) -> str:
        """See `Logger.start`."""
        import trackio

        run_id = run_id or f"{run.name}-{self._suffix}"
        self._run = trackio.init(
            project=run.project,
            name=run_id,
            group=run.group or None,
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,  # in steps of their own
            auto_log_cpu=False,
        )
        return run_id

    def last_step(self) -> int | None:
        """See `Logger.last_step`; the library sends from a queue in memory."""
        following = getattr(self._run, "_next_step", None)  # which it has read from its database
        return None if following is None else following - 1

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger.log_scalars`."""
        more, self._more = self._more, {}  # which may be what the library refuses: the next attempt is without
        self._run.log({**values, **more}, step=step)

    def log_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """See `Logger.log_pictures`."""
        import trackio

        self._more |= {f"pictures/{name}": trackio.Image(image) for name, image in pictures.items()}

    def log_tables(self, step: int, tables: Mapping[str, Table]) -> None:
        """See `Logger.log_tables`."""
        import pandas
        import trackio

        for name, table in tables.items():
            frame = pandas.DataFrame(table.rows, columns=table.columns)
            self._more[f"tables/{name}"] = trackio.Table(dataframe=frame)

    def close(self, status: Status) -> None:
        """See `Logger.close`."""
        self._run.finish()
