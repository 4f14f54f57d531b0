"""Sums the metrics of the steps since the last line of the log."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from beit_jax.errors import UserError
from beit_jax.typing import Metrics

SKIPPED = "skipped_steps"


class MetricsWindow:
    """Collects metrics on the device, and fetches them for a line of the log."""

    def __init__(self, max_bad_steps: int, saved: Mapping[str, Any] | None = None):
        """
        Args:
          max_bad_steps: steps in a row that may be skipped.
          saved: what `to_json` returned when the run was preempted between two lines.
        """
        self._max_bad = max_bad_steps
        self._steps: list[Metrics] = [dict(step) for step in (saved or {}).get("steps", ())]
        self._bad = (saved or {}).get("bad", 0)  # steps skipped in a row, up to the last line

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of one step, `{name: (sum, count)}`."""
        self._steps.append(metrics)

    def to_json(self, step: int, saved_step: int | None) -> dict[str, Any]:
        """The content as JSON, for a checkpoint between two lines: the next line is that of an uninterrupted run.

        Raises:
          UserError: see `next_line`.
        """
        bad = self._bad
        self._means(step, saved_step)
        return {"steps": self._steps, "bad": bad}

    def next_line(self, step: int, saved_step: int | None) -> dict[str, float]:
        """Mean of each metric over the steps since the last line, and how many steps were skipped.

        Args:
          step: the last one.
          saved_step: that of the newest checkpoint.

        Raises:
          UserError: a metric is not finite, too many steps in a row were skipped, or the loss is a mean of no values.
        """
        means, self._bad = self._means(step, saved_step)
        self._steps = []
        return means

    def _means(self, step: int, saved_step: int | None) -> tuple[dict[str, float], int]:
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
                    f"max_bad_steps={self._max_bad}; {_advice(saved_step)}"
                )
        totals = {name: [sum(metrics[name][part] for metrics in fetched) for part in (0, 1)] for name in fetched[0]}
        skipped = {SKIPPED: totals.pop(SKIPPED)[0]} if SKIPPED in totals else {}
        if not totals["loss"][1]:
            if any(skipped.values()):
                return skipped, bad
            raise UserError(f"there was nothing to learn {between}: the loss is a mean of no values; see data.ops")
        means = {name: total / count for name, (total, count) in totals.items()}
        for name, value in means.items():
            if not math.isfinite(value):
                raise UserError(f"the {name} is {value} {between}; {_advice(saved_step)}")
        return means | skipped, bad


def _advice(saved_step: int | None) -> str:
    change = "lower optimizer.lr or set optimizer.clip_norm"
    if saved_step is None:
        return f"there is no checkpoint yet: {change}"
    return f"the checkpoint of step {saved_step} is finite: {change}, and start in a new workdir, with resume_from"
