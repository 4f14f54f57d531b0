"""What the report of a run shows of a task: curves, the numbers it is judged by, captions."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple


class Curve(NamedTuple):
    """One panel: a metric of the training log (pale) and one of the evaluations (strong); either may be empty.

    Examples:
      >>> from beit_jax.tasks import Curve
      >>> Curve("loss", "eval/loss", "nats per image").unit
      'nats per image'
    """

    logged: str
    evaluated: str
    unit: str


class Headline(NamedTuple):
    """A number by which a task is judged.

    Attributes:
      metric: its name among the results.
      words: what it is called in a table.
      factor: by which it is multiplied there.
      form: its format.
      averaged: whether a mean over seeds makes sense.

    Examples:
      >>> from beit_jax.tasks import Headline
      >>> row = Headline("accuracy", "accuracy, %", factor=100)
      >>> row.form.format(row.factor * 0.786)
      '78.6'
    """

    metric: str
    words: str
    factor: float = 1.0
    form: str = "{:.1f}"
    averaged: bool = True


class Table(NamedTuple):
    """A table that an evaluation makes, for a CSV file: names of the columns, and rows of text or numbers.

    Examples:
      >>> from beit_jax.tasks import Table
      >>> Table(("class", "accuracy"), [("cat", 0.9), ("dog", 0.8)]).columns
      ('class', 'accuracy')
    """

    columns: tuple[str, ...]
    rows: list[tuple[str | float, ...]]


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that a report needs to know of a task; the defaults serve tasks that declare nothing.

    Attributes:
      title: the task in words; runs with the same title share panels.
      curves: panels, in order.
      headlines: rows of the table in a Markdown page; none: every number of the last evaluation.
      metrics: what each number of the evaluation means.
      captions: what each picture shows, in the order in which the report shows them.
      matrices: captions of the tables, by name, that are confusion matrices (`tasks.confusion.confusion_table`).

    Examples:
      >>> from beit_jax.tasks import Curve, Headline, Report
      >>> report = Report(
      ...     "rotation",
      ...     curves=(Curve("loss", "", "nats per image"),),
      ...     headlines=(Headline("right", "turns recognised, %", 100),),
      ...     metrics={"right": "fraction of images whose turn is recognised"},
      ... )
      >>> report.headlines[0].metric in report.metrics
      True
    """

    title: str
    curves: tuple[Curve, ...] = (Curve("loss", "eval/loss", "loss"),)
    headlines: tuple[Headline, ...] = ()
    metrics: Mapping[str, str] = dataclasses.field(default_factory=dict)
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    matrices: Mapping[str, str] = dataclasses.field(default_factory=dict)
