"""Builds all parts of a run from a valid config.

The parts are the task, the mesh, the lengths, the optimizer, shapes and shardings of the state, the frozen parameters,
the batches and the evaluations. Each is built once, when it is first used. Training, evaluation, benchmarks,
`tokenize_dataset` and `visualize` build the same `Experiment`, and use the parts that they need.
"""

import dataclasses
import functools
import types
from collections.abc import Mapping
from pathlib import Path

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from beit_jax import tasks
from beit_jax.config import class_names, fill_in_sizes, validate
from beit_jax.config.durations import in_steps, parse_schedule
from beit_jax.config.keys import LARGEST
from beit_jax.config.schema import durations_in_steps
from beit_jax.errors import UserError
from beit_jax.experiment_config import complete
from beit_jax.experiment_data import ExperimentData
from beit_jax.experiment_splits import check_unchanged
from beit_jax.experiment_start import fill_in_labels, fill_in_statistics, find_start
from beit_jax.experiment_teacher import fill_in_teacher, fit_tokenizer_to_teacher
from beit_jax.experiment_tokenizer import fill_in_tokenizer
from beit_jax.tasks.device_choices import check_devices
from beit_jax.tasks.task import Task
from beit_jax.training import initialize, memory, memory_check, optimizer, sharding, train_step
from beit_jax.training.evaluation import Evaluator
from beit_jax.training.grids import PendingStage
from beit_jax.typing import Params

STEP, EVALUATION = "a training step", "the evaluation of a batch"  # the programs of a run
NOTHING_PENDING: Mapping[str, "Experiment"] = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Lengths in steps: of the run, of its warm-up, of its schedule (0: to the end), and of an epoch."""

    total: int
    warmup: int
    schedule: int
    per_epoch: int


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """One run.

    Attributes:
      config: of the run, valid, and filled in from the data by `experiment_data.complete`.
      folder: of the run. The runs of a recipe, its stages, have folders with the same parent.
      task: what is learned, or measured.
      given_lengths: for benchmarks: used instead of the lengths that follow from the config and the data.
      stage: its name in a recipe; empty for a run that is not part of one.
    """

    config: ConfigDict
    folder: Path
    task: Task
    given_lengths: Lengths | None = None
    stage: str = ""

    @classmethod
    def build(
        cls, config: ConfigDict, folder: Path, pending: Mapping[str, "Experiment"] = NOTHING_PENDING, stage: str = ""
    ) -> "Experiment":
        """An experiment that is ready to train. All mistakes that can be found before training are found here.

        Nothing is computed and no image is read, only label maps are: the checks compare the config with the
        description of the data, the devices, and the shapes of parameters.

        Args:
          config: of the run, valid.
          folder: of the run.
          pending: earlier stages that have not run yet, `{"stage:NAME": experiment}`.
          stage: its name in a recipe; empty for a run that is not part of one.

        Raises:
          UserError: data, ops, devices, lengths, stored tokens or checkpoints do not fit.
        """
        stages = {name: stage.config for name, stage in pending.items()}
        config, start = fill_in_tokenizer(config, folder, stages), find_start(config, folder, stages)
        config = fit_tokenizer_to_teacher(fill_in_teacher(config, folder, stages))
        check_unchanged(config.data, folder)
        config = fill_in_labels(fill_in_statistics(config, start), start)
        advice = "choose another --workdir" if start.continues else class_names.BY_NUMBER
        config = complete(config, order=start.labels, advice=advice)
        lengths = cls(config, folder, tasks.create_task(config)).lengths
        config = durations_in_steps(config, lengths.per_epoch, lengths.total)
        experiment = cls(config, folder, tasks.create_task(config), stage=stage)
        experiment.check_batch()
        experiment.data.check(experiment.lengths.total)
        experiment.check_replicated()  # builds the optimizer, which refuses a warm-up that is as long as the run
        waiting = {name: PendingStage(stage.config, stage.abstract_params) for name, stage in pending.items()}
        initialize.check_sources(experiment.config, experiment.task, folder, waiting)
        return experiment

    # On which devices, for how long, with which optimizer.

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices.

        Raises:
          UserError: the mesh does not fit the devices.
        """
        return sharding.make_mesh(self.config.mesh)

    def check_batch(self) -> None:
        """Raises UserError if the mesh does not split a micro-batch evenly, or the model is for other devices."""
        sharding.check_batch(self.mesh, self.config.batch_size, self.config.optimizer.accumulate)
        check_devices(self.config.get("model", {}), self.mesh)

    @functools.cached_property
    def data(self) -> ExperimentData:
        """The batches, and the checks and evaluations that need the data."""
        return ExperimentData(fill_in_sizes(self.config), self.folder, self.task, self.mesh, lambda: self.frozen)

    @functools.cached_property
    def lengths(self) -> Lengths:
        """Lengths in steps.

        Raises:
          UserError: the examples do not fill a batch, or the config gives no length.
        """
        if self.given_lengths:
            return self.given_lengths
        config, per_epoch = self.config, self.data.steps_per_epoch
        total = config.steps or round(config.epochs * per_epoch)
        if not total and config.epochs:
            raise UserError(
                f"epochs={config.epochs:g} is less than one step; expected at least {1 / per_epoch:.2g}, which is "
                f"batch_size={config.batch_size} of {self.data.num_examples} examples"
            )
        if not total:
            raise UserError(
                f"epochs={config.epochs:g} and steps={config.steps}: give the length of the run in one of them"
            )
        if total > LARGEST:
            raise UserError(f"epochs={config.epochs:g} are {total} steps; expected at most {LARGEST}")
        _, schedule = parse_schedule(config.optimizer.schedule, per_epoch, total)
        return Lengths(total, in_steps(config.optimizer.warmup, per_epoch, total), schedule, per_epoch)

    @functools.cached_property
    def _optimizer(self) -> tuple[optax.GradientTransformation, optax.Schedule]:
        lengths, settings = self.lengths, self.config.optimizer
        steps = lengths.total, lengths.warmup, lengths.schedule, lengths.per_epoch
        return optimizer.build_optimizer(settings, *steps, no_decay=self.task.no_decay)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """From gradients to updates."""
        return self._optimizer[0]

    @property
    def learning_rate(self) -> optax.Schedule:
        """The learning rate as a function of the step."""
        return self._optimizer[1]

    @functools.cached_property
    def random_keys(self) -> tuple[jax.Array, jax.Array]:
        """The random keys of the initial parameters, and of the steps (stochastic depth, mixup, Gumbel-softmax)."""
        initial, steps = jax.random.split(jax.random.key(self.config.seed))
        return initial, steps

    # State: shapes first, arrays when they are needed.

    @functools.cached_property
    def abstract_state(self) -> train_step.TrainState:
        """Shapes, dtypes and shardings of the train state."""
        return initialize.abstract_state(self.task, self.optimizer, self.config.optimizer.ema > 0, self.mesh)

    @functools.cached_property
    def abstract_params(self) -> Params:
        """Shapes, dtypes and shardings of the parameters that are learned."""
        return initialize.abstract_params(self.task, self.mesh)

    def load_params(self, source: Path | Params) -> Params:
        """The parameters of a checkpoint of this run, or those that were loaded before, sharded.

        Raises:
          UserError: the checkpoint cannot be read, or does not fit.
        """
        with jax.set_mesh(self.mesh):
            return initialize.load_params(self.abstract_params, source)

    def fresh_state(self) -> train_step.TrainState:
        """The state at step 0 with new parameters."""
        with jax.set_mesh(self.mesh):
            return initialize.fresh_state(self.task, self.optimizer, self.abstract_state, self.random_keys[0])

    @functools.cached_property
    def abstract_frozen(self) -> dict[str, Params]:
        """Shapes, dtypes and shardings of the parameters that the task reads and does not learn."""
        return initialize.abstract_frozen(self.task, self.mesh)

    @functools.cached_property
    def frozen(self) -> dict[str, Params]:
        """The parameters that the task reads and does not learn, read from disk once.

        Raises:
          UserError: a source holds no checkpoint, or one that does not fit.
        """
        with jax.set_mesh(self.mesh):
            return initialize.load_frozen(self.task, self.abstract_frozen, self.folder)

    @functools.cached_property
    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, dtypes and shardings of a training batch."""
        examples = sharding.batch_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=examples)
            for name, spec in self.task.train_spec(self.config.batch_size).items()
        }

    # The programs.

    def trace_step(self) -> jax.stages.Traced:
        """The training step, traced for the mesh from shapes: needs neither data nor memory.

        It takes a state, the frozen parameters, a batch and the key of the run.
        """
        return self._traced_step

    @functools.cached_property
    def _traced_step(self) -> jax.stages.Traced:
        config, state = self.config, self.abstract_state
        step = train_step.make_step(
            self.task, self.optimizer, config.optimizer.accumulate, config.optimizer.ema, config.max_bad_steps > 0
        )
        # The metrics are replicated, so that every process can read them.
        outputs = jax.tree.map(lambda leaf: leaf.sharding, state), sharding.replicated(self.mesh)
        jitted = jax.jit(step, out_shardings=outputs, donate_argnums=0)
        key = jax.eval_shape(jax.random.key, 0)  # computed nowhere: the devices of the mesh may only be described
        with jax.set_mesh(self.mesh):
            return jitted.trace(state, self.abstract_frozen, self.abstract_batch, key)

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """The task's evaluation."""
        return Evaluator(self.task, self.mesh)

    @functools.cached_property
    def _traced_evaluation(self) -> jax.stages.Traced:
        return self.evaluator.trace(self.abstract_state.params, self.abstract_frozen, self.config.batch_size)

    def trace(self) -> dict[str, jax.stages.Traced]:
        """The programs of a run by name, traced for the mesh from shapes."""
        return {STEP: self.trace_step(), EVALUATION: self._traced_evaluation}

    def with_batch(self, batch_size: int, accumulate: int) -> "Experiment":
        """The same run with another batch, and what does not depend on the batch.

        Raises:
          UserError: the task or the mesh cannot have such a batch.
        """
        config = self.config.copy_and_resolve_references()
        config.batch_size, config.optimizer.accumulate = batch_size, accumulate
        validate(config)
        task = dataclasses.replace(self.task, config=config)
        made = dataclasses.replace(self, config=config, task=task, given_lengths=self.lengths)
        vars(made).update({name: getattr(self, name) for name in ("mesh", "abstract_state", "abstract_frozen")})
        made.check_batch()
        return made

    def check_memory(self) -> None:
        """Checks, before anything is allocated, that what no compiler can avoid fits into memory.

        Raises:
          UserError: it does not; says what to lower, to which value.
        """
        memory_check.check_shapes(self)

    def check_replicated(self) -> None:
        """Checks that the mesh shards most bytes of the state and of the frozen parameters.

        Raises:
          UserError: too much of the state would be replicated on every device.
        """
        memory.check_replicated(self.mesh, self.abstract_state, self.abstract_frozen)
