"""The training loop: one for every task."""

import collections
import contextlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import jax

from beit_jax.config import to_json
from beit_jax.runtime import preemption
from beit_jax.runtime.distributed import broadcast_from_main, is_main, print_once
from beit_jax.runtime.watchdog import Watchdog
from beit_jax.training import initialize, memory, memory_check, progress, sharding
from beit_jax.training.checkpoint_manager import Checkpoints
from beit_jax.training.clock import Clock
from beit_jax.training.loggers import open_loggers
from beit_jax.training.loggers.background import BackgroundLogger
from beit_jax.training.loggers.run_loggers import RunLoggers
from beit_jax.training.memory_limit import MemoryLimit, find_limit
from beit_jax.training.metrics import MetricWriter
from beit_jax.training.metrics_window import MetricsWindow
from beit_jax.typing import Batch, HostBatch

if TYPE_CHECKING:
    from beit_jax.experiment import Experiment

STEPS_IN_FLIGHT = 2  # steps queued on the device: it always has work, and few batches are in memory at once


def train(experiment: "Experiment") -> dict[str, float]:
    """Trains to the end of the run, from the newest checkpoint in its folder if there is one.

    Returns:
      The numbers of the last evaluation.

    Raises:
      UserError: what the user can change: a checkpoint or a mesh that does not fit, a loss that is not finite.
      preemption.Preempted: the state is saved, because a signal asked the run to stop.
    """
    with jax.set_mesh(experiment.mesh), contextlib.ExitStack() as at_end:
        at_end.callback(preemption.allow_exit)  # called last, after everything else is closed
        return _Run(experiment, at_end).train()


class _Run:
    """A run while it trains: its state, and the files and threads that are open meanwhile."""

    def __init__(self, experiment: "Experiment", at_end: contextlib.ExitStack):
        self.experiment, self.config, self.name = experiment, experiment.config, experiment.folder.name
        self.total = experiment.lengths.total
        loggers = at_end.enter_context(RunLoggers(self._open_loggers))  # closed when the checkpoints are saved
        self.checkpoints = Checkpoints(experiment.folder, self.config.keep)
        at_end.callback(self.checkpoints.close)  # also after an error, which is reported when the last save has ended
        self.state, origin = initialize.starting_state(
            self.config,
            experiment.task,
            experiment.optimizer,
            experiment.abstract_state,
            experiment.random_keys[0],
            self.checkpoints,
            experiment.folder,
        )
        self.step, self.evaluator = int(self.state.step), experiment.evaluator
        self.clock = Clock()
        progress.write_parameters(experiment.folder, memory.describe_parameters(self.state, experiment.frozen), "w")
        print_once(f"{self.name}: {origin}; {self.total} steps on {progress.describe_devices(experiment.mesh)}")
        if self.step < self.total:
            limit, self.batches = find_limit(experiment.mesh), self._training_batches()
            self.compiled_step = self._compile(limit)
        self.writer = MetricWriter(experiment.folder, self.step, is_main(), loggers)
        at_end.callback(self.writer.close)
        self.watchdog = at_end.enter_context(Watchdog())
        self.window = MetricsWindow(self.config.max_bad_steps, self.checkpoints.meta.get("window"))

    def train(self) -> dict[str, float]:
        """The steps that are left, with their evaluations and checkpoints."""
        # The evaluation of this step if the log has it already; only the main process reads the log.
        results = json.loads(broadcast_from_main(json.dumps(self.writer.read_evaluation(self.step))))
        preemption.defer_exit()
        try:
            if self.checkpoints.meta and not results and self._due(self.config.eval_every):
                results = self._evaluate()  # the run was preempted during this evaluation
            for _ in self._steps():
                results = self._after_step() or results
            return results or self._evaluate()
        except preemption.PreemptionRequested:
            raise preemption.Preempted(
                f"{self.name}: stopped by {preemption.describe_signal()} at step {self.step}, which is saved; "
                f"{preemption.HOW_TO_CONTINUE}"
            ) from None

    def _steps(self) -> Iterator[None]:
        """Makes the steps that are left, and yields after each."""
        if self.step == self.total:
            return
        frozen, key, in_flight = self.experiment.frozen, self.experiment.random_keys[1], collections.deque()
        self.clock.restart()
        for batch in self.batches:
            self.state, metrics = self.compiled_step(self.state, frozen, batch, key)
            self.step += 1
            self.clock.step()
            self.window.add(metrics)
            in_flight.append(metrics["loss"])
            if len(in_flight) > STEPS_IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
                self.watchdog.step_done()
            yield
            if self.step == self.total:
                return

    def _after_step(self) -> dict[str, float]:
        """Writes a line of the log, saves a checkpoint and evaluates, each if it is due; returns the evaluation.

        Raises:
          preemption.PreemptionRequested: the state is saved.
        """
        self.checkpoints.check_pending()
        saving, results = self._due(self.config.save_every), {}
        if saving or self._due(self.config.log_every):
            self._log()  # before every save: it raises if a metric is not finite, and such a state must not be saved
        stopping = preemption.should_stop()
        with self.clock.pause():
            if saving:
                self._save()
            if self._due(self.config.eval_every) and not stopping:
                try:
                    results = self._evaluate()
                except preemption.PreemptionRequested:
                    stopping = True
            if stopping and not saving:
                self._save(window=self.window.to_json(self.step, self.checkpoints.latest_step()))
        if stopping:
            raise preemption.PreemptionRequested
        return results

    def _due(self, every: int) -> bool:
        return self.step == self.total or (every > 0 and self.step % every == 0)

    def _log(self) -> None:
        means = self.window.next_line(self.step, self.checkpoints.latest_step())
        speed = self.clock.report(self.total - self.step)
        seconds_left = speed.pop("seconds_left")
        speed["examples_per_second"] = speed.pop("steps_per_second") * self.config.batch_size
        means["learning_rate"] = float(self.experiment.learning_rate(self.step - 1))
        self.writer.write(self.step, {"epoch": self._epoch} | means | speed)
        devices = self.experiment.mesh.size
        print_once(progress.describe(self.name, self.step, self.total, means, speed, seconds_left, devices))

    def _save(self, **meta: Any) -> None:
        with self.watchdog.pause():
            self.writer.flush()
            meta |= {"config": to_json(self.config), "processes": jax.process_count()}
            self.checkpoints.save(self.state, self.step, meta)

    def _evaluate(self) -> dict[str, float]:
        experiment = self.experiment
        params = self.state.params if self.state.ema is None else self.state.ema
        batches = experiment.data.eval_batches
        values, tables = self.evaluator.run(params, experiment.frozen, self._watched(batches))
        with self.watchdog.pause():
            for evaluation in experiment.data.evaluations:
                values |= evaluation(experiment.mesh, params, experiment.frozen, self._watched)
        if self.step == self.total:
            self.writer.write_pictures(self.step, self.evaluator.pictures(params, experiment.frozen, batches))
            self.writer.write_tables(self.step, tables)
        self.writer.write(self.step, {"epoch": self._epoch} | {f"eval/{name}": value for name, value in values.items()})
        print_once(f"{self.name} {self.step}/{self.total}  eval  {progress.format_values(values)}")
        return values

    @property
    def _epoch(self) -> float:
        return self.step / self.experiment.lengths.per_epoch

    def _compile(self, limit: MemoryLimit | None) -> jax.stages.Compiled:
        """The training step, and a line with the memory that the compiler plans for it.

        Raises:
          UserError: the step, or the evaluation, which is compiled here too, does not fit into memory.
        """
        compiled = {}
        for name, traced in self.experiment.trace().items():
            start = time.perf_counter()
            compiled[name] = program = traced.lower().compile()
            plan = memory.format_sizes("planned by the compiler", memory.compiled_bytes_per_device(program))
            line = f"{name} compiled in {time.perf_counter() - start:.1f} s; {plan}"
            progress.write_parameters(self.experiment.folder, [line], "a")
            memory_check.check_plan(self.experiment, name, program, limit)
        step, evaluation = compiled.values()
        self.evaluator.use(evaluation)
        return step

    def _open_loggers(self, past: list[dict[str, Any]]) -> list[BackgroundLogger]:
        return open_loggers(self.experiment.folder, self.experiment.stage, self.config, past)

    def _training_batches(self) -> Iterator[Batch]:
        """Global batches on the devices. The task inspects the first one now, before the step is compiled."""
        task, saved_by = self.experiment.task, self.checkpoints.meta.get("processes", jax.process_count())
        host_batches = iter(self.experiment.data.train_batches(self.step, saved_by))
        first = next(host_batches)
        task.check_batch(first)
        return self._to_devices(itertools.chain([first], host_batches))

    def _to_devices(self, host_batches: Iterator[HostBatch]) -> Iterator[Batch]:
        names = self.experiment.task.train_spec(1)  # only what the task needs
        while True:
            with self.clock.wait():
                batch = next(host_batches)
            yield sharding.to_devices(self.experiment.mesh, {name: batch[name] for name in names})

    def _watched(self, batches: Iterable[HostBatch]) -> Iterator[HostBatch]:
        """The batches of an evaluation, which ends early when the run is to stop.

        Raises:
          preemption.PreemptionRequested: in all processes at the same batch.
        """
        for index, batch in enumerate(batches):
            if preemption.should_stop():
                raise preemption.PreemptionRequested
            self.watchdog.reset()
            # The first batch takes long, because the evaluation is compiled then.
            with contextlib.nullcontext() if index else self.watchdog.pause():
                yield batch
