"""Weights & Biases. `WANDB_API_KEY`, `WANDB_MODE=offline` and the other variables of the library hold."""

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from beit_jax.tasks.report import Table
from beit_jax.training.loggers.logger import LoggedRun, Logger, Status

FLUSH_S = 20.0  # the library writes to its file every 15 s
UPLOAD_S = 50  # that the end of a run waits for an upload; `wandb sync` does the rest


class WandbLogger(Logger):
    """See `Logger`. The library writes into the folder `wandb` of the run, and uploads from a process of its own."""

    settles_s = FLUSH_S

    def __init__(self) -> None:
        self._new_id = secrets.token_hex(4)  # one for all attempts to start
        self._more: dict[str, Any] = {}  # pictures and tables, which are logged with the numbers of their step

    def load(self) -> None:
        """See `Logger.load`."""
        import wandb

        wandb.setup()

    def start(self, run: LoggedRun, run_id: str | None) -> str:
        """See `Logger.start`."""
        import wandb

        offline = wandb.setup().settings.mode in ("offline", "disabled", "shared")
        if not offline and not wandb.login(prompt=False):  # it would ask at the terminal of the training
            raise PermissionError("not logged in: run `wandb login`, or set WANDB_MODE=offline")
        settings = wandb.Settings(console="off", finish_timeout=UPLOAD_S)  # the terminal belongs to the training
        self._run = wandb.init(
            id=run_id or self._new_id,
            reinit="create_new",  # the run of an earlier stage may not have ended yet
            resume=None if offline else "allow",  # offline, files of the same id are one run once they are synced
            dir=str(run.folder),
            project=run.project,
            name=run.name,
            group=run.group or None,
            config=dict(run.config),
            allow_val_change=True,
            settings=settings,
        )
        return self._run.id

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger.log_scalars`."""
        more, self._more = self._more, {}  # which may be what the library refuses: the next attempt is without
        self._run.log({**values, **more}, step=step, commit=True)

    def log_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """See `Logger.log_pictures`."""
        import wandb

        self._more |= {f"pictures/{name}": wandb.Image(image) for name, image in pictures.items()}

    def log_tables(self, step: int, tables: Mapping[str, Table]) -> None:
        """See `Logger.log_tables`."""
        import wandb

        for name, table in tables.items():
            # An empty cell, as of a class without images, is None here: a column of numbers takes no text.
            rows = [[None if value == "" else value for value in row] for row in table.rows]
            self._more[f"tables/{name}"] = wandb.Table(columns=list(table.columns), data=rows)

    def close(self, status: Status) -> None:
        """See `Logger.close`."""
        if status is Status.STOPPED:
            self._run.mark_preempting()
        self._run.finish(exit_code=int(status is not Status.FINISHED))
