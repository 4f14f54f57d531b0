"""The training step of a config, without data or checkpoints: the config completed, shapes, the trace."""

import dataclasses

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax import tasks
from beit_jax.tasks.encoder import encoder_fields
from beit_jax.tasks.task import Task
from beit_jax.training import initialize, loop, memory, optimizer, sharding
from beit_jax.training.train_step import TrainState
from beit_jax.typing import Params
from beit_jax.validate import validate

CLASSES = {"classify": 1000, "probe": 1000, "segment": 150}  # ImageNet-1k, ADE20K: what data would have told
STEPS = 100_000  # of a run whose length depends on its data; only the constants of schedules do


@dataclasses.dataclass(frozen=True)
class Program:
    """A training step and the shapes, dtypes and shardings of what it takes; nothing is allocated."""

    config: ConfigDict
    task: Task
    optimizer: optax.GradientTransformation
    mesh: Mesh
    state: TrainState
    frozen: dict[str, Params]

    def trace(self) -> jax.stages.Traced:
        """The step, traced for the mesh."""
        with jax.set_mesh(self.mesh):
            return loop.trace_step(self.config, self.task, self.optimizer, self.mesh, self.state, self.frozen)


def complete(config: ConfigDict, stage: str, dtype: str, remat: str = "auto") -> ConfigDict:
    """A copy of a config, or of a recipe's stage, with all that data, devices or other runs would have told.

    Args:
      config: of a run or a recipe.
      stage: of the recipe; empty for a run.
      dtype: in place of `dtype="auto"`; "auto" leaves it.
      remat: in place of `model.remat="auto"`, likewise.

    Raises:
      UserError: the config is wrong, or the stage is none of it.
    """
    config = config.copy_and_resolve_references()
    chosen = configs.stage_of(config, stage)
    for key in ("tokenizer", "encoder"):  # an untrained one takes as long
        if chosen.get(key, None):
            chosen[key].init_from = "random"
    for section in (chosen.model, chosen.get("tokenizer", ConfigDict())):
        for key, value in (("dtype", dtype), ("remat", remat)):
            if section.get(key, "") == "auto":
                section[key] = value
    if chosen.model.get("num_classes", None) == 0:
        chosen.model.num_classes = CLASSES[chosen.task]
    validate(config)
    return chosen


def make(config: ConfigDict, task: Task | None = None) -> Program:
    """The program of a completed config for the devices that are there, with its own task or another.

    Raises:
      UserError: the mesh does not fit the devices, the batch or the parameters.
    """
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(mesh, config.batch_size, config.optimizer.accumulate)
    task = task or tasks.create(config)
    tx, _ = optimizer.build_optimizer(config.optimizer, config.steps or STEPS, config.optimizer.warmup_steps)
    with jax.set_mesh(mesh):
        state = initialize.abstract_state(task, tx, config.optimizer.ema > 0, mesh)
        frozen = initialize.abstract_frozen(task, mesh)
    memory.check_replicated(mesh, config.mesh.max_replicated, state, frozen)
    return Program(config, task, tx, mesh, state, frozen)


def dtype(config: ConfigDict) -> str:
    """The type of the matrix products that a completed config asks for, on the devices that are there."""
    if config.task == "tokenizer":
        return np.dtype(tasks.model(config).dtype).name
    return encoder_fields(config.model)["dtype"].name
