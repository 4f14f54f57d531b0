"""Trackio. `TRACKIO_DIR`, `TRACKIO_SPACE_ID` and the other variables of the library hold."""

import secrets
from collections.abc import Mapping

import numpy as np

from beit_jax.tasks.report import Table
from beit_jax.training.loggers.logger import LoggedRun, Logger


class TrackioLogger(Logger):
    """See `Logger`. The library finds a run again by its name, which therefore ends with a random number."""

    def start(self, run: LoggedRun, run_id: str | None) -> str:
        """See `Logger.start`."""
        import trackio

        run_id = run_id or f"{run.name}-{secrets.token_hex(3)}"
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

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger.log_scalars`."""
        self._run.log(dict(values), step=step)

    def log_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """See `Logger.log_pictures`."""
        import trackio

        if pictures:
            self._run.log({f"pictures/{name}": trackio.Image(image) for name, image in pictures.items()}, step=step)

    def log_tables(self, step: int, tables: Mapping[str, Table]) -> None:
        """See `Logger.log_tables`."""
        import pandas
        import trackio

        frames = {name: pandas.DataFrame(table.rows, columns=table.columns) for name, table in tables.items()}
        if frames:
            self._run.log(
                {f"tables/{name}": trackio.Table(dataframe=frame) for name, frame in frames.items()}, step=step
            )

    def close(self) -> None:
        """See `Logger.close`."""
        self._run.finish()
