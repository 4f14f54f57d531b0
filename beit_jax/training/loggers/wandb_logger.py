"""Weights & Biases. `WANDB_API_KEY`, `WANDB_MODE=offline` and the other variables of the library hold."""

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from beit_jax.tasks.report import Table
from beit_jax.training.loggers.logger import LoggedRun, Logger

UPLOAD_S = 50  # that the end of a run waits for an upload; `wandb sync` does the rest


class WandbLogger(Logger):
    """See `Logger`. The library writes into the folder `wandb` of the run, and uploads from a process of its own."""

    def start(self, run: LoggedRun, run_id: str | None) -> str:
        """See `Logger.start`."""
        import wandb

        run_id = run_id or secrets.token_hex(4)
        offline = wandb.setup().settings.mode in ("offline", "disabled", "shared")
        if not offline and not wandb.login(prompt=False):  # it would ask at the terminal of the training
            raise PermissionError("not logged in: run `wandb login`, or set WANDB_MODE=offline")
        settings = wandb.Settings(console="off", finish_timeout=UPLOAD_S)  # the terminal belongs to the training
        self._run = wandb.init(
            id=run_id,
            resume=None if offline else "allow",  # offline, files of the same id are one run once they are synced
            dir=str(run.folder),
            project=run.project,
            name=run.name,
            group=run.group or None,
            config=dict(run.config),
            allow_val_change=True,
            settings=settings,
        )
        return run_id

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger.log_scalars`."""
        self._run.log(dict(values), step=step, commit=True)

    def log_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """See `Logger.log_pictures`."""
        self._log(step, "pictures", {name: self._library.Image(image) for name, image in pictures.items()})

    def log_tables(self, step: int, tables: Mapping[str, Table]) -> None:
        """See `Logger.log_tables`."""
        made = {
            name: self._library.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
            for name, table in tables.items()
        }
        self._log(step, "tables", made)

    def close(self) -> None:
        """See `Logger.close`."""
        self._run.finish()

    @property
    def _library(self) -> Any:
        import wandb

        return wandb

    def _log(self, step: int, section: str, values: Mapping[str, Any]) -> None:
        self._run.log({f"{section}/{name}": value for name, value in values.items()}, step=step, commit=False)
