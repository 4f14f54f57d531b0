"""The metrics of the steps since the last line of the log."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from beit_jax.errors import UserError
from beit_jax.tasks.task import Metrics

SKIPPED = "skipped_steps"


class Window:
    """Collects metrics on the device, and fetches them for a line."""

    def __init__(self, max_bad_steps: int, kept: Mapping[str, Any] | None = None):
        """
        Args:
          max_bad_steps: steps in a row that may be skipped.
          kept: what `keep` gave when the run was stopped between two lines.
        """
        self._max_bad = max_bad_steps
        self._steps: list[Metrics] = [dict(step) for step in (kept or {}).get("steps", ())]
        self._bad = (kept or {}).get("bad", 0)  # steps skipped in a row, up to the last line

    def add(self, metrics: Metrics) -> None:
        """The metrics of one more step, `{name: (sum, count)}`."""
        self._steps.append(metrics)

    def keep(self, step: int, saved: int | None) -> dict[str, Any]:
        """What goes into a checkpoint between two lines, as JSON: the line will be that of a run that never stopped.

        Raises:
          UserError: see `line`.
        """
        bad = self._bad
        self._means(step, saved)
        return {"steps": self._steps, "bad": bad}

    def line(self, step: int, saved: int | None) -> dict[str, float]:
        """Mean of each metric over the steps since the last line, and how many were skipped.

        Args:
          step: the last one.
          saved: the step of the newest checkpoint.

        Raises:
          UserError: one that is not finite, too many steps skipped in a row, or a loss over nothing.
        """
        means, self._bad = self._means(step, saved)
        self._steps = []
        return means

    def _means(self, step: int, saved: int | None) -> tuple[dict[str, float], int]:
        fetched = jax.device_get(self._steps)
        self._steps = fetched = [
            {name: tuple(float(part) for part in parts) for name, parts in metrics.items()} for metrics in fetched
        ]
        if not fetched:
            return {}, self._bad
        between = f"between steps {step - len(fetched) + 1} and {step}"
        bad = self._bad
        for metrics in fetched:
            bad = bad + 1 if metrics.get(SKIPPED, (0,))[0] else 0
            if bad > self._max_bad:
                raise UserError(
                    f"the loss or the gradient was not finite in {bad} steps in a row {between}, more than "
                    f"max_bad_steps={self._max_bad}; {_way_out(saved)}"
                )
        totals = {name: [sum(metrics[name][part] for metrics in fetched) for part in (0, 1)] for name in fetched[0]}
        skipped = {SKIPPED: totals.pop(SKIPPED)[0]} if SKIPPED in totals else {}
        if not totals["loss"][1]:
            if any(skipped.values()):
                return skipped, bad
            raise UserError(f"there was nothing to learn {between}: the loss is a mean over no value; see data.ops")
        means = {name: total / count for name, (total, count) in totals.items()}
        for name, value in means.items():
            if not math.isfinite(value):
                raise UserError(f"the {name} is {value} {between}; {_way_out(saved)}")
        return means | skipped, bad


def _way_out(saved: int | None) -> str:
    newest = f"the checkpoint of step {saved} is finite" if saved is not None else "there is no checkpoint yet"
    resume = ", with resume_from" if saved is not None else ""
    return f"{newest}: lower optimizer.lr or set optimizer.clip_norm, and start in a new workdir{resume}"
