"""From a validated config to a run that is ready to start.

What the config alone cannot tell is checked here against the data's description, the devices and the shapes of
parameters, without reading an image or computing anything: a recipe whose last stage cannot work stops before its first
one starts.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from beit_jax import tasks
from beit_jax.data import pipeline
from beit_jax.errors import UserError
from beit_jax.tasks import Task
from beit_jax.tasks.task import Params
from beit_jax.training import optimizer, origin, sharding


@dataclasses.dataclass(frozen=True)
class Run:
    """What the training loop is given, and `params`, the shapes of what it will learn."""

    config: ConfigDict
    folder: Path
    task: Task
    total_steps: int
    warmup_steps: int
    params: Params

    def stream(self, step: int) -> pipeline.TrainStream:
        """This process's training batches from a step on."""
        config = self.config
        return pipeline.make_train(
            config.data, seed=config.seed, batch_size=config.batch_size, start_step=step, **processes()
        )

    def eval_set(self) -> pipeline.EvalSet:
        """This process's evaluation batches."""
        return pipeline.make_eval(self.config.data, batch_size=self.config.batch_size, **processes())


def processes() -> dict[str, int]:
    """Which process of how many this is."""
    return dict(process_index=jax.process_index(), process_count=jax.process_count())


def prepare(config: ConfigDict, folder: Path, coming: Mapping[str, Params]) -> Run:
    """Makes a run ready.

    Args:
      config: of the run, validated.
      folder: of the run.
      coming: the shapes of the parameters of stages that have not run yet, `{"stage:NAME": shapes}`.

    Raises:
      UserError: data, ops, devices, steps or checkpoints that do not fit.
    """
    config = complete(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(mesh, config.batch_size, config.optimizer.accumulate)
    total_steps, warmup_steps = _steps(config)
    optimizer.make(config.optimizer, total_steps, warmup_steps)
    task = tasks.create(config)
    for part in ("", "eval_"):
        check_rows(config, task, part)
    return Run(config, folder, task, total_steps, warmup_steps, origin.check(config, task, folder, coming))


def complete(config: ConfigDict) -> ConfigDict:
    """A copy of the config with what follows from its data and its place: number of classes, absolute paths.

    References to stages stay as they are: a recipe's folder can be moved.

    Raises:
      UserError: the data cannot be read, or has more classes than the model.
    """
    config = config.copy_and_resolve_references()
    for section in (config, config.get("tokenizer", {})):
        source = section.get("init_from", "")
        if source and source != "random" and not source.startswith("stage:"):
            section.init_from = str(Path(source).absolute())
    if config.task == "classify":
        classes = pipeline.info(config.data).num_classes
        config.model.num_classes = config.model.num_classes or classes
        if classes > config.model.num_classes:
            raise UserError(
                f"model.num_classes={config.model.num_classes}, but {config.data.source} has {classes} classes; "
                "0 takes their number"
            )
    return config


def _steps(config: ConfigDict) -> tuple[int, int]:
    """Steps of the run and of its warm-up."""
    examples = pipeline.info(config.data).num_examples
    steps_per_epoch = examples // config.batch_size
    if not steps_per_epoch:
        raise UserError(
            f"{examples} training examples do not fill one batch of {config.batch_size}; lower batch_size, or take "
            "more labels"
        )
    total = config.steps or round(config.epochs * steps_per_epoch)
    if not total:
        raise UserError(f"epochs={config.epochs:g} and steps={config.steps}: give the length of the run in one of them")
    return total, config.optimizer.warmup_steps or round(config.optimizer.warmup_epochs * steps_per_epoch)


def check_rows(config: ConfigDict, task: Task, part: str) -> None:
    """Checks what the ops make against what the task takes.

    Args:
      config: of the run.
      task: what is learned.
      part: "" for training, "eval_" for evaluation.

    Raises:
      UserError: something is missing, or of another shape or type.
    """
    data, ops = config.data, f"data.{part}ops"
    found = pipeline.spec(data, data[f"{part}split"], data[f"{part}ops"])
    for name, expected in task.batch_spec(1).items():
        if name not in found:
            raise UserError(f"{ops} leave no {name!r}, which the {task.name} task needs; found {', '.join(found)}")
        if found[name] != (expected.shape, expected.dtype):
            shape, dtype = found[name]
            raise UserError(
                f"{ops} make {name!r} {_described(shape, dtype)}; the {task.name} task expects "
                f"{_described(expected.shape, expected.dtype)}: make the ops and the model's sizes agree"
            )


def _described(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{dtype}{list(shape[1:])}"
