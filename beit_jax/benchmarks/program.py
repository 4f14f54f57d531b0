"""The training step of a config, without data or checkpoints: the config completed, shapes, the trace."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax import tasks
from beit_jax.config.durations import in_steps, parse_schedule
from beit_jax.experiment import Experiment, Lengths
from beit_jax.tasks.encoder import compute_dtype
from beit_jax.tasks.task import Task

CLASSES = 1000  # of a config that takes their number from the data: ImageNet-1k
STEPS = 100_000  # of a run whose length depends on its data; only the constants of schedules do
STEPS_PER_EPOCH = 100


def complete(config: ConfigDict, stage: str, dtype: str, remat: str = "auto") -> ConfigDict:
    """A copy of a config, or of a recipe's stage, with what data, devices or other runs would have told.

    Args:
      config: of a run or a recipe.
      stage: of the recipe; empty for a run.
      dtype: in place of `model.dtype="auto"`; "auto" leaves it.
      remat: in place of `model.remat="auto"`, likewise.

    Raises:
      UserError: the config is wrong, or the recipe has no such stage.
    """
    config = config.copy_and_resolve_references()
    chosen = configs.stage_of(config, stage)
    for section in ("tokenizer", "encoder"):  # an untrained one takes as long
        if section in chosen:
            chosen[section].init_from = "random"
    for key, value in (("dtype", dtype), ("remat", remat)):
        if chosen.model.get(key, "") == "auto":
            chosen.model[key] = value
    if chosen.model.get("num_classes", None) == 0:
        chosen.model.num_classes = CLASSES
    configs.validate(config)
    return chosen


def experiment_without_data(config: ConfigDict, task: Task | None = None) -> Experiment:
    """The experiment of a completed config for the devices that are there, with its own task or another.

    Raises:
      UserError: the mesh does not fit the devices, the batch or the parameters.
    """
    total = config.steps or STEPS
    warmup = min(in_steps(config.optimizer.warmup, STEPS_PER_EPOCH), total - 1)
    _, schedule = parse_schedule(config.optimizer.schedule, STEPS_PER_EPOCH)
    lengths = Lengths(total, warmup, schedule, STEPS_PER_EPOCH)
    experiment = Experiment(config, Path(), task or tasks.create_task(config), lengths)
    experiment.check_replicated()
    return experiment


def dtype_of(config: ConfigDict) -> str:
    """The type of the matrix products that a completed config asks for, on the devices that are there."""
    return np.dtype(compute_dtype(config.model.get("dtype", "float32"))).name
