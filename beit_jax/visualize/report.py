"""Turns workdirs into a table for the terminal and one self-contained `report.html`."""

import dataclasses
import json
import os
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax.training import metrics

SEED = re.compile(r"[_,]?seed=?\d+")  # in the names of stages, of a sweep's members, and of workdirs


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      folder: of the run.
      config: that it was made with.
      log: the lines of its metrics.
      state: how far it is, in words; empty: finished.
    """

    folder: Path
    config: ConfigDict
    log: list[dict[str, float]]
    state: str = ""


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only; most groups have one run.

    Attributes:
      name: of the stage, without `_seedN`, and of the workdir where there are several.
      task: of its config; for pre-training with what it predicts, unless that is the usual masked tokens.
      labels: which labels it learns from, in words; empty: all.
      runs: in the order they ran.
      results: the last evaluation of each run; empty where there was none yet.
    """

    name: str
    task: str
    labels: str
    runs: list[Run] = dataclasses.field(default_factory=list)
    results: list[dict[str, float]] = dataclasses.field(default_factory=list)


def write(*workdirs: Path, out: Path | None = None) -> str:
    """Writes the page; returns the table for the terminal.

    Args:
      workdirs: each of a run or of a recipe, finished or not. Several are shown side by side.
      out: the page; if not given, `report.html` in the workdir, with its curves beside it as PNG, or in the folder
        that holds all of several workdirs.
    """
    from beit_jax.visualize import page

    groups = collect(*workdirs, unfinished=True)
    folder = workdirs[0] if len(workdirs) == 1 else Path(os.path.commonpath([path.resolve() for path in workdirs]))
    target = out or folder / "report.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    title = folder.resolve().name if len(workdirs) == 1 else " | ".join(path.resolve().name for path in workdirs)
    curves = folder if len(workdirs) == 1 and out is None else None
    target.write_text(page.html_of(title, groups, curves), encoding="utf-8")
    return f"{table(groups)}\n\nreport: {target}"


def collect(*workdirs: Path, unfinished: bool = False) -> list[Group]:
    """The runs of workdirs, grouped by name without seed, in the order they ran.

    Args:
      workdirs: each of a run or of a recipe.
      unfinished: whether runs that have begun and not ended are among them.
    """
    groups: dict[tuple[str, ...], Group] = {}
    for title, workdir in zip(_titles(workdirs), workdirs):
        for stage, folder, config in _stages(workdir):
            log = metrics.read_metrics(folder / metrics.FILE)
            finished = (folder / "result.json").exists()
            if not finished and not (unfinished and log):
                continue
            name = ": ".join(filter(None, (title, SEED.sub("", stage))))
            key = (name, _task(config), _labels(config.data))
            group = groups.setdefault(key, Group(*key))
            if finished:
                result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            else:
                result = _last_evaluation(log)
            group.runs.append(Run(folder, config, log, "" if finished else _state(config, log)))
            group.results.append(result)
    return list(groups.values())


def _titles(workdirs: Sequence[Path]) -> list[str]:
    """What tells several workdirs apart; without their seeds, so that these become one group."""
    if len(workdirs) == 1:
        return [""]
    paths = [path.resolve() for path in workdirs]
    common = os.path.commonpath(paths)
    return [SEED.sub("", str(path.relative_to(common))).strip(",") if path != Path(common) else "" for path in paths]


def _stages(workdir: Path) -> Iterator[tuple[str, Path, ConfigDict]]:
    """Name, folder and config of each run of a workdir."""
    config = configs.from_json((workdir / "config.json").read_text(encoding="utf-8"))
    if "stages" not in config:
        yield config.task, workdir, config
    for name in config.get("stages", ()):
        yield name, workdir / name, config[name]


def _last_evaluation(log: list[dict[str, float]]) -> dict[str, float]:
    evaluated = [line for line in log if any(name.startswith(metrics.EVALUATION) for name in line)]
    last = evaluated[-1] if evaluated else {}
    return {
        name.removeprefix(metrics.EVALUATION): value
        for name, value in last.items()
        if name.startswith(metrics.EVALUATION)
    }


def _state(config: ConfigDict, log: list[dict[str, float]]) -> str:
    step, epoch = log[-1]["step"], log[-1]["epoch"]
    total = config.steps or (round(config.epochs * step / epoch) if epoch else 0)
    return f"at step {step} of {total}"


def _task(config: ConfigDict) -> str:
    target = f"{'all ' if config.get('loss_on') == 'all' else ''}{config.get('target', 'tokens')}"
    return config.task if config.task != "pretrain" or target == "tokens" else f"{config.task}, {target}"


def _labels(data: ConfigDict) -> str:
    if data.labels_per_class:
        return f"{data.labels_per_class} labels a class"
    return f"{data.label_fraction:.0%} of the labels" if data.label_fraction < 1 else ""


def table(groups: list[Group]) -> str:
    """Stage, metric, mean, deviation over seeds, and every seed's value."""
    table_rows = [("stage", "metric", "mean", "sd", "each seed"), *rows(groups)]
    widths = [max(len(row[i]) for row in table_rows) for i in range(len(table_rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table_rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def rows(groups: list[Group]) -> list[tuple[str, str, str, str, str]]:
    """The cells of the table; of runs that have not ended, the last evaluation."""
    found = []
    for group in groups:
        for metric in dict.fromkeys(name for result in group.results for name in result):
            values = [result[metric] for result in group.results if metric in result]
            several = len(values) > 1
            spread = f"{statistics.stdev(values):.4g}" if several else ""
            each = " ".join(f"{value:.4g}" for value in values) if several else ""
            found.append((group.name, metric, f"{statistics.mean(values):.4g}", spread, each))
    return found
