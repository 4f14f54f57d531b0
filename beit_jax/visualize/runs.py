"""Workdirs as a report needs them: their runs, grouped by what differs in nothing but the seed."""

import dataclasses
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax.data.sources.label_choice import parse_labels
from beit_jax.errors import UserError
from beit_jax.evals import feature_evaluation
from beit_jax.tasks import Report, create_task
from beit_jax.training import metrics
from beit_jax.visualize.workdirs import common_folder, recipe_of
from beit_jax.workdir import CONFIG, RESULT, read_result

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
      report: what the task of these runs declares.
      labels: which labels they learn from, in words; empty: all.
      runs: in the order they ran.
      results: the last evaluation of each run; empty where there was none yet.
    """

    name: str
    report: Report
    labels: str
    runs: list[Run] = dataclasses.field(default_factory=list)
    results: list[dict[str, float]] = dataclasses.field(default_factory=list)


def collect_runs(*workdirs: Path, unfinished: bool = False) -> list[Group]:
    """The runs of workdirs, grouped by name without seed, in the order they ran.

    Args:
      workdirs: each of a run or of a recipe.
      unfinished: whether runs that have begun and not ended are among them.
    """
    groups: dict[tuple[str, ...], Group] = {}
    for workdir_name, workdir in zip(_workdir_names(workdirs), workdirs):
        for stage, folder, config in _stages(workdir):
            log = metrics.read_metrics(folder / metrics.FILE)
            result = read_result(folder)
            finished = result is not None
            if not finished and (folder / RESULT).exists():
                warnings.warn(f"{folder / RESULT} is no result; the run counts as not finished", stacklevel=2)
            if not finished and not (unfinished and log):
                continue
            name, report = ": ".join(filter(None, (workdir_name, SEED.sub("", stage)))), report_of(config)
            labels = _describe_labels(config.data.labels)
            group = groups.setdefault((name, report.title, labels), Group(name, report, labels))
            group.runs.append(Run(folder, config, log, "" if finished else _describe_progress(config, log)))
            group.results.append(result if finished else _last_evaluation(log))
    return list(groups.values())


def report_of(config: ConfigDict) -> Report:
    """What a run's task declares, with what its features are measured by; a default where its file was not loaded."""
    known = config.task in configs.task_names()
    report = create_task(config).report if known else Report(config.task)
    if "evals" not in config:
        return report
    return dataclasses.replace(
        report,
        curves=(*report.curves, *feature_evaluation.CURVES),
        # A report without headlines shows every number.
        headlines=(*report.headlines, *feature_evaluation.HEADLINES) if report.headlines else (),
        metrics=feature_evaluation.METRICS | report.metrics,
    )


def _workdir_names(workdirs: Sequence[Path]) -> list[str]:
    """What tells several workdirs apart; without their seeds, so that these become one group."""
    if len(workdirs) == 1:
        return [""]
    paths, common = [path.resolve() for path in workdirs], common_folder(workdirs)
    names = [str(path if common is None else path.relative_to(common)) for path in paths]
    return ["" if path == common else SEED.sub("", name).strip(",") for path, name in zip(paths, names, strict=True)]


def _stages(workdir: Path) -> Iterator[tuple[str, Path, ConfigDict]]:
    """Name, folder and config of each run of a workdir, or of a stage of a recipe.

    Raises:
      UserError: the config cannot be read, or is none of this library.
    """
    if not (workdir / CONFIG).is_file() and (recipe := recipe_of(workdir)):
        name = workdir.resolve().name
        yield name, workdir, recipe[name]
        return
    try:
        config = configs.from_json((workdir / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{workdir / CONFIG} cannot be read ({error}); run it again") from error
    stages = config.get("stages", ())
    if "task" not in config and not (isinstance(stages, tuple) and stages and all(name in config for name in stages)):
        raise UserError(
            f"{workdir} holds no run: its {CONFIG} is none of this library; expected the --workdir of beit_jax.train"
        )
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


def _describe_progress(config: ConfigDict, log: list[dict[str, float]]) -> str:
    step, epoch = log[-1]["step"], log[-1]["epoch"]
    total = config.steps or (round(config.epochs * step / epoch) if epoch else 0)
    return f"at step {step} of {total}"


def _describe_labels(labels: str) -> str:
    per_class, fraction = parse_labels(labels)
    if per_class:
        return f"{per_class} labels per class"
    return f"{labels} of the labels" if fraction < 1 else ""
