"""MLflow. `MLFLOW_TRACKING_URI` and the other variables of the library hold."""

import csv
import io
import re
import time
from collections.abc import Mapping

import numpy as np

from beit_jax.tasks.report import Table
from beit_jax.training.loggers.logger import LoggedRun, Logger, Status

LONGEST = 500  # characters of a value of the config; the library has limits of its own
REFUSED = re.compile(r"[^/\w. -]|(?<=/)/|^[/.]+|[/.]+$")  # in names of metrics
STATUS = {Status.FINISHED: "FINISHED", Status.STOPPED: "KILLED", Status.FAILED: "FAILED"}


class MlflowLogger(Logger):
    """See `Logger`. The client is used without the library's active run, which belongs to the user's own code."""

    def __init__(self) -> None:
        self._id: str | None = None

    def load(self) -> None:
        """See `Logger.load`."""
        import mlflow

        self._client = mlflow.MlflowClient()  # which imports what reaches the server or opens the database

    def start(self, run: LoggedRun, run_id: str | None) -> str:
        """See `Logger.start`."""
        from mlflow.entities import Param

        if self._id is None and run_id is not None and self._continue(run_id):
            self._id = run_id
            return run_id
        if self._id is None:  # not in a second attempt
            tags = {"group": run.group} if run.group else {}
            created = self._client.create_run(self._experiment(run.project), run_name=run.name, tags=tags)
            self._id = created.info.run_id
        # Values that a continued run changes, such as log_every, keep the first one: the library refuses another.
        params = [Param(name, repr(value)[:LONGEST]) for name, value in run.config.items()]
        for first in range(0, len(params), 100):
            self._client.log_batch(self._id, params=params[first : first + 100])
        return self._id

    def _continue(self, run_id: str) -> bool:
        """Whether there is such a run; not if it was removed, or in a database of another working directory."""
        from mlflow.exceptions import MlflowException

        try:
            if self._client.get_run(run_id).info.lifecycle_stage == "deleted":
                return False
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger.log_scalars`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        named = {REFUSED.sub("_", name): value for name, value in values.items()}
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in named.items()])

    def log_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """See `Logger.log_pictures`."""
        for name, image in pictures.items():
            self._client.log_image(self._id, image, artifact_file=f"pictures/{name}.png")

    def log_tables(self, step: int, tables: Mapping[str, Table]) -> None:
        """See `Logger.log_tables`."""
        for name, table in tables.items():
            text = io.StringIO()
            csv.writer(text).writerows([table.columns, *table.rows])
            self._client.log_text(self._id, text.getvalue(), f"tables/{name}.csv")

    def close(self, status: Status) -> None:
        """See `Logger.close`."""
        self._client.set_terminated(self._id, STATUS[status])
