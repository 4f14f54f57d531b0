"""The training loop: one for every task."""

import collections
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from beit_jax.config import to_json
from beit_jax.runtime import preemption
from beit_jax.runtime.distributed import from_main, is_main
from beit_jax.runtime.watchdog import Watchdog
from beit_jax.tasks.task import Batch, HostBatch, Params, Task
from beit_jax.training import initialize, memory, sharding, train_step
from beit_jax.training import optimizer as optimizers
from beit_jax.training.checkpoint_manager import Checkpoints
from beit_jax.training.clock import Clock
from beit_jax.training.evaluation import Evaluator
from beit_jax.training.metrics import MetricWriter
from beit_jax.training.metrics_window import Window

Watched = Callable[[Iterable[HostBatch]], Iterable[HostBatch]]
Evaluation = Callable[[Mesh, Params, Params, Watched], dict[str, float]]
IN_FLIGHT = 2  # steps that may wait on the device: it never idles, and batches in memory stay bounded


def train(
    config: ConfigDict,
    task: Task,
    run: Path,
    make_stream: Callable[[int, int], Iterable[HostBatch]],
    eval_set: Iterable[HostBatch],
    more: Iterable[Evaluation],
    total: int,
    warmup: int,
    per_epoch: int,
) -> dict[str, float]:
    """Trains to the step `total`, from wherever the run's folder stands.

    Args:
      config: of the run, validated.
      task: what is learned.
      run: the run's folder.
      make_stream: from the step to start at, and the number of processes that have come so far, to this process's
        batches, without end.
      eval_set: this process's evaluation batches, with `valid`; can be iterated again and again.
      more: what else is measured at each evaluation, from the mesh, the parameters, the frozen ones, and what batches
        are to be looked at through.
      total: length of the run in steps.
      warmup: steps of warm-up.
      per_epoch: steps of an epoch.

    Returns:
      The numbers of the last evaluation.

    Raises:
      UserError: what the user can mend: a checkpoint or a mesh that does not fit, a loss that is not finite.
      preemption.Stopped: the state is saved, for a signal asked to stop.
    """
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(mesh, config.batch_size, config.optimizer.accumulate)
    optimizer, learning_rate = optimizers.make(config.optimizer, total, warmup)
    with jax.set_mesh(mesh), contextlib.ExitStack() as at_end:
        abstract = initialize.abstract_state(task, optimizer, config.optimizer.ema > 0, mesh)
        memory.check_replicated(mesh, config.mesh.max_replicated, abstract, initialize.abstract_frozen(task, mesh))
        at_end.callback(preemption.release)  # when everything is closed
        checkpoints = Checkpoints(run, config.keep, config.keep_every)
        at_end.callback(checkpoints.close)  # also after an error: a save under way is finished before it is reported
        current, where_from = initialize.initial_state(config, task, optimizer, checkpoints, run, mesh)
        frozen = initialize.load_frozen(config, task, mesh, run)
        step, evaluator = int(current.step), Evaluator(task, mesh)
        _note(run, memory.describe(current, frozen), "w")
        _say(f"{run.name}: {where_from}; {total} steps on {mesh.size} {jax.devices()[0].device_kind} device(s)")

        clock, batches = Clock(), ()
        if step < total:
            saved_by = checkpoints.meta.get("processes", jax.process_count())
            batches = _to_devices(_checked(make_stream(step, saved_by), task), task, mesh, clock)
            start = time.perf_counter()
            update = trace_step(config, task, optimizer, mesh, current, frozen).lower().compile()
            plan = memory.line("planned by the compiler", memory.planned(update))
            _note(run, [f"compiled in {time.perf_counter() - start:.1f} s; {plan}"], "a")
        writer = MetricWriter(run, step, is_main())
        at_end.callback(writer.close)
        watchdog = at_end.enter_context(Watchdog(config.stall_factor))
        clock.restart()
        key = jax.random.key(config.seed + 1)  # of dropped paths and relaxed codes; the parameters took `seed`
        window, in_flight = Window(config.max_bad_steps, checkpoints.meta.get("window")), collections.deque()
        results = json.loads(from_main(json.dumps(writer.evaluation(step))))

        def evaluate() -> dict[str, float]:
            weights = current.params if current.ema is None else current.ema
            values = evaluator.run(weights, frozen, _watched(eval_set, watchdog))
            with watchdog.asleep():
                for evaluation in more:
                    values |= evaluation(mesh, weights, frozen, lambda batches: _watched(batches, watchdog))
            if _due(step, config.picture_every, total):
                writer.pictures(step, evaluator.pictures(weights, frozen, eval_set))
            epoch = {"epoch": step / per_epoch}
            writer.write(step, epoch | {f"eval/{name}": value for name, value in values.items()})
            _say(f"{run.name} {step}/{total}  eval  {_format(values)}")
            return values

        def save(**meta: Any) -> None:
            with watchdog.asleep():
                meta |= {"config": to_json(config), "processes": jax.process_count()}
                checkpoints.save(current, step, meta)

        preemption.hold()
        try:
            if checkpoints.meta and not results and _due(step, config.eval_every, total):
                results = evaluate()  # which was stopped
            for batch in batches:
                current, metrics = update(current, frozen, batch, key)
                step += 1
                clock.step()
                window.add(metrics)
                in_flight.append(metrics["loss"])
                if len(in_flight) > IN_FLIGHT:
                    jax.block_until_ready(in_flight.popleft())
                    watchdog.step()
                checkpoints.check()
                saving = _due(step, config.save_every, total)
                if saving or _due(step, config.log_every, total):
                    # Always before a save, so that no state is saved that is not finite.
                    means = window.line(step, checkpoints.latest_step())
                    speed = clock.report(total - step)
                    speed["examples_per_second"] = speed.pop("steps_per_second") * config.batch_size
                    rate = {"learning_rate": float(learning_rate(step - 1))}
                    left = speed.pop("seconds_left")
                    writer.write(step, {"epoch": step / per_epoch} | means | rate | speed)
                    _say(_progress(run.name, step, total, means | rate, speed, left, mesh.size))
                stopping = preemption.poll()
                with clock.pause():
                    if saving:
                        save()
                    if _due(step, config.eval_every, total) and not stopping:
                        try:
                            results = evaluate()
                        except preemption.Stopping:
                            stopping = True
                    if stopping and not saving:
                        save(window=window.keep(step, checkpoints.latest_step()))
                if stopping:
                    raise preemption.Stopping
                if step == total:
                    break
            return results or evaluate()
        except preemption.Stopping:
            raise preemption.Stopped(
                f"{run.name}: stopped by SIGTERM at step {step}, which is saved; {preemption.AGAIN}"
            ) from None


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def trace_step(
    config: ConfigDict, task: Task, optimizer: optax.GradientTransformation, mesh: Mesh, current: Any, frozen: Any
) -> jax.stages.Traced:
    """The training step, traced for a mesh from arrays or shapes; needs no data and, given shapes, no memory."""
    skip_bad = config.max_bad_steps > 0
    step = train_step.make_step(task, optimizer, config.optimizer.accumulate, config.optimizer.ema, skip_bad)
    # Every process reads the metrics.
    out = sharding.shardings(mesh, current), sharding.replicated(mesh)
    jitted = jax.jit(step, out_shardings=out, donate_argnums=0)
    rows = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=rows)
        for name, spec in task.batch_spec(config.batch_size).items()
    }
    return jitted.trace(current, frozen, batch, jax.random.key(0))


def _checked(stream: Iterable[HostBatch], task: Task) -> Iterator[HostBatch]:
    """The stream, after the task's look at its first batch: before the step is compiled."""
    rest = iter(stream)
    first = next(rest)
    task.check(first)
    return itertools.chain([first], rest)


def _watched(batches: Iterable[HostBatch], watchdog: Watchdog) -> Iterator[HostBatch]:
    """The batches of an evaluation, which is left where the run is to stop.

    Raises:
      preemption.Stopping: in all processes at the same batch.
    """
    for number, batch in enumerate(batches):
        if preemption.poll():
            raise preemption.Stopping
        watchdog.beat()
        with contextlib.nullcontext() if number else watchdog.asleep():  # the first one waits for the compiler
            yield batch


def _to_devices(stream: Iterator[HostBatch], task: Task, mesh: Mesh, clock: Clock) -> Iterator[Batch]:
    """Global batches on the devices, only what the task needs."""
    names = task.batch_spec(1)
    while True:
        with clock.wait():
            rows = next(stream)
        yield sharding.to_devices(mesh, {name: rows[name] for name in names})


def _progress(
    name: str, step: int, total: int, values: dict[str, float], speed: dict[str, float], left: float, devices: int
) -> str:
    minutes, seconds = divmod(round(left), 60)
    hours, minutes = divmod(minutes, 60)
    eta = f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
    per_device = speed["examples_per_second"] / devices
    memory = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    parts = [
        f"{name} {step}/{total}",
        _format(values),
        f"{per_device:,.0f} examples/s/device",
        f"input wait {speed['input_wait']:.0%}",
        *([f"memory {memory / 2**30:.1f} GiB"] if memory else []),
        f"{eta} left",
    ]
    return "  ".join(parts)


def _format(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def _note(run: Path, lines: list[str], mode: str) -> None:
    """Keeps lines in the run's `parameters.txt`, and prints the last one."""
    if is_main():
        with (run / "parameters.txt").open(mode, encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    _say(f"{run.name}: {lines[-1]}")


def _say(text: str) -> None:
    if is_main():
        print(text, flush=True)
