"""The experiment of a config without data or checkpoints, for measuring its step."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax import tasks
from beit_jax.config.durations import in_steps, parse_schedule
from beit_jax.config.schema import durations_in_steps
from beit_jax.experiment import Experiment, Lengths
from beit_jax.experiment_teacher import fill_in_teacher, fit_tokenizer_to_teacher
from beit_jax.experiment_tokenizer import fill_in_tokenizer
from beit_jax.runtime.checkpoint_folder import holds_checkpoint
from beit_jax.runtime.paths import as_path
from beit_jax.tasks.device_choices import chosen_by_device, compute_dtype, unrolled_blocks
from beit_jax.tasks.task import Task
from beit_jax.training import sharding

CLASSES = 1000  # where a config takes their number from the data: those of ImageNet-1k
STEPS = 100_000  # where the length of a run depends on its data; it changes only constants of the schedule
STEPS_PER_EPOCH = 100


def complete_without_data(
    config: ConfigDict, stage: str, dtype: str, remat: str = "auto", device: jax.Device | None = None
) -> ConfigDict:
    """A copy of a config, or of a recipe's stage, with values for what data, devices or other runs decide.

    Args:
      config: of a run or a recipe.
      stage: of the recipe; empty for a run.
      dtype: in place of `model.dtype="auto"`; "auto" leaves it.
      remat: in place of `model.remat="auto"`, likewise.
      device: decides what is then left to it in `model`; None: the devices that are there will.

    Raises:
      UserError: the config is wrong, or the recipe has no such stage.
    """
    stages, original = _stages(config), configs.stage_of(config, stage)
    sizes, fitted = _tokenizer_sizes(original, stages), _with_teacher(original, stages)
    config = configs.with_untrained_parts(config, stage)  # which take as long
    chosen = configs.stage_of(config, stage)
    if sizes:
        chosen.tokenizer.update({**sizes, "init_from": "random"})
    if "teacher" in chosen:
        chosen.teacher.update({**fitted.teacher, "path": "random"})
        chosen.model.update(fitted.model)
    model, loss = chosen.get("model", {}), chosen.get("loss", {})  # a tokenizer's training has its own in `loss`
    for section in (model, loss):
        for key, value in (("dtype", dtype), ("remat", remat)):
            if section.get(key, "") == "auto":
                section[key] = value
    if device and "unroll" in model:
        model.update(chosen_by_device(model, device))
    if device and "unroll" in loss:
        loss.unroll = unrolled_blocks(loss.unroll, model.variant, device)
    if model.get("num_classes", None) == 0:
        model.num_classes = CLASSES
    configs.validate(config)
    return durations_in_steps(chosen, STEPS_PER_EPOCH, chosen.steps or STEPS)


def _stages(config: ConfigDict) -> dict[str, ConfigDict]:
    """The stages of a recipe as `{"stage:NAME": config}`, with the sizes of their teachers."""
    stages: dict[str, ConfigDict] = {}
    for name, section in configs.stages_of(config).items():
        stages[f"stage:{name}"] = _with_teacher(section, stages)
    return stages


def _with_teacher(config: ConfigDict, stages: dict[str, ConfigDict]) -> ConfigDict:
    """A run's config with the sizes of the teacher that it reads, from a stage or from its run, if that is there."""
    if _is_there(config.get("teacher", {}).get("path", "random"), stages):
        config = fill_in_teacher(config, Path(), stages)
    return fit_tokenizer_to_teacher(config)


def _tokenizer_sizes(config: ConfigDict, stages: dict[str, ConfigDict]) -> dict[str, Any]:
    """Sizes of the tokenizer that a run's config reads, from a stage or from its run, if that is there."""
    if not _is_there(config.get("tokenizer", {}).get("init_from", ""), stages):
        return {}
    return dict(fill_in_tokenizer(config, Path(), stages).tokenizer)


def _is_there(source: str, stages: dict[str, ConfigDict]) -> bool:
    return source in stages or (source not in ("", "random") and holds_checkpoint(as_path(source)))


def experiment_without_data(
    config: ConfigDict, task: Task | None = None, devices: list[jax.Device] | None = None
) -> Experiment:
    """The experiment of a completed config for `devices`, by default all that are there, with its own task or another.

    Raises:
      UserError: the mesh does not fit the devices, the batch or the parameters.
    """
    total = config.steps or STEPS
    warmup = min(in_steps(config.optimizer.warmup, STEPS_PER_EPOCH, total), total - 1)
    _, schedule = parse_schedule(config.optimizer.schedule, STEPS_PER_EPOCH, total)
    lengths = Lengths(total, warmup, schedule, STEPS_PER_EPOCH)
    experiment = Experiment(config, Path(), task or tasks.create_task(config), lengths)
    if devices:
        vars(experiment)["mesh"] = sharding.make_mesh(config.mesh, devices)
    experiment.check_batch()
    experiment.check_replicated()
    return experiment


def dtype_of(config: ConfigDict) -> str:
    """The type of the matrix products that a completed config asks for, on the devices that are there."""
    sections = (config.get(name, {}) for name in ("model", "loss"))
    given = [section.dtype for section in sections if "dtype" in section]
    return np.dtype(compute_dtype(given[0] if given else "float32")).name
