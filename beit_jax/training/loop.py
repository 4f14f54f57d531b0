"""The training loop: one for every task."""

import collections
import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from beit_jax.config import to_json
from beit_jax.errors import UserError
from beit_jax.tasks.task import Batch, Metrics, Params, Rows, Task
from beit_jax.training import optimizer as optimizers
from beit_jax.training import origin, sharding, state
from beit_jax.training.checkpoint import Checkpoints
from beit_jax.training.clock import Clock
from beit_jax.training.evaluation import Evaluator
from beit_jax.training.metrics import MetricWriter

Evaluation = Callable[[Mesh, Params, Params], dict[str, float]]
IN_FLIGHT = 2  # steps that may wait on the device: it never idles, and batches in memory stay bounded


def train(
    config: ConfigDict,
    task: Task,
    run: Path,
    make_stream: Callable[[int], Iterable[Rows]],
    eval_set: Iterable[Rows],
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
      make_stream: from the step to start at to this process's batches, without end.
      eval_set: this process's evaluation batches, with `valid`; can be iterated again and again.
      more: what else is measured at each evaluation, from the mesh, the parameters and the frozen ones.
      total: length of the run in steps.
      warmup: steps of warm-up.
      per_epoch: steps of an epoch.

    Returns:
      The numbers of the last evaluation.

    Raises:
      UserError: what the user can mend: a checkpoint or a mesh that does not fit, a loss that is not finite.
    """
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(mesh, config.batch_size, config.optimizer.accumulate)
    optimizer, learning_rate = optimizers.make(config.optimizer, total, warmup)
    with jax.set_mesh(mesh), contextlib.ExitStack() as at_end:
        checkpoints = Checkpoints(run, config.keep)
        at_end.callback(checkpoints.close)  # also after an error: a save under way is finished before it is reported
        current, where_from = origin.initial_state(config, task, optimizer, checkpoints, run, mesh)
        frozen = origin.load_frozen(config, task, mesh, run)
        step, evaluator = int(current.step), Evaluator(task, mesh)
        if jax.process_index() == 0:
            table = sharding.describe(current.params, mesh)
            (run / "parameters.txt").write_text(table + "\n", encoding="utf-8")
            _say(f"{run.name}: {table.splitlines()[-1]}; each one in {run / 'parameters.txt'}")
        _say(f"{run.name}: {where_from}; {total} steps on {mesh.size} {jax.devices()[0].device_kind} device(s)")

        clock, batches = Clock(), ()
        if step < total:
            batches = _to_devices(_checked(make_stream(step), task), task, mesh, clock)
            start = time.perf_counter()
            update = trace_step(config, task, optimizer, mesh, current, frozen).lower().compile()
            _say(f"{run.name}: compiled in {time.perf_counter() - start:.1f} s")
        writer = MetricWriter(run, step)
        at_end.callback(writer.close)
        clock.restart()
        key = jax.random.key(config.seed + 1)  # of dropped paths and relaxed codes; the parameters took `seed`
        pending, in_flight = [], collections.deque()
        results = {}

        def evaluate() -> dict[str, float]:
            weights = current.params if current.ema is None else current.ema
            values = evaluator.run(weights, frozen, eval_set)
            for evaluation in more:
                values |= evaluation(mesh, weights, frozen)
            if _due(step, config.picture_every, total):
                writer.pictures(step, evaluator.pictures(weights, frozen, eval_set))
            epoch = {"epoch": step / per_epoch}
            writer.write(step, epoch | {f"eval/{name}": value for name, value in values.items()})
            _say(f"{run.name} {step}/{total}  eval  {_format(values)}")
            return values

        for batch in batches:
            current, metrics = update(current, frozen, batch, key)
            step += 1
            clock.step()
            pending.append(metrics)
            in_flight.append(metrics["loss"])
            if len(in_flight) > IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
            save = _due(step, config.save_every, total)
            if save or _due(step, config.log_every, total):
                # Always before a save, so that no state is saved that is not finite.
                means = _means(pending, step, checkpoints.latest_step())
                speed = clock.report(total - step)
                speed["examples_per_second"] = speed.pop("steps_per_second") * config.batch_size
                rate = {"learning_rate": float(learning_rate(step - 1))}
                left = speed.pop("seconds_left")
                writer.write(step, {"epoch": step / per_epoch} | means | rate | speed)
                _say(_progress(run.name, step, total, means | rate, speed, left, mesh.size))
                pending = []
            with clock.pause():
                if _due(step, config.eval_every, total):
                    results = evaluate()
                if save:
                    checkpoints.save(current, step, {"config": to_json(config)})
            if step == total:
                break
        return results or evaluate()


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def trace_step(
    config: ConfigDict, task: Task, optimizer: optax.GradientTransformation, mesh: Mesh, current: Any, frozen: Any
) -> jax.stages.Traced:
    """The training step, traced for a mesh from arrays or shapes; needs no data and, given shapes, no memory."""
    step = state.make_step(task, optimizer, config.optimizer.accumulate, config.optimizer.ema)
    jitted = jax.jit(step, out_shardings=(sharding.shardings(mesh, current), None), donate_argnums=0)
    rows = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=rows)
        for name, spec in task.batch_spec(config.batch_size).items()
    }
    return jitted.trace(current, frozen, batch, jax.random.key(0))


def _checked(stream: Iterable[Rows], task: Task) -> Iterator[Rows]:
    """The stream, after the task's look at its first batch: before the step is compiled."""
    rest = iter(stream)
    first = next(rest)
    task.check(first)
    return itertools.chain([first], rest)


def _to_devices(stream: Iterator[Rows], task: Task, mesh: Mesh, clock: Clock) -> Iterator[Batch]:
    """Global batches on the devices, only what the task needs."""
    names = task.batch_spec(1)
    while True:
        with clock.wait():
            rows = next(stream)
        yield sharding.to_devices(mesh, {name: rows[name] for name in names})


def _means(pending: list[Metrics], step: int, saved: int | None) -> dict[str, float]:
    """Mean of each metric over the steps since the last line.

    Args:
      pending: metrics of the steps up to `step`.
      step: the last one.
      saved: the step of the newest checkpoint.

    Raises:
      UserError: one that is not finite, or a loss over nothing.
    """
    fetched = jax.device_get(pending)
    between = f"between steps {step - len(fetched) + 1} and {step}"
    totals = {name: [sum(float(metrics[name][part]) for metrics in fetched) for part in (0, 1)] for name in fetched[0]}
    if not totals["loss"][1]:
        raise UserError(f"there was nothing to learn {between}: the loss is a mean over no value; see data.ops")
    means = {name: total / count for name, (total, count) in totals.items()}
    for name, value in means.items():
        if not math.isfinite(value):
            way_out = f"the checkpoint of step {saved} is finite" if saved is not None else "there is no checkpoint yet"
            raise UserError(
                f"the {name} is {value} {between}; {way_out}: lower optimizer.lr or set optimizer.clip_norm, and start "
                f"in a new workdir{', with resume_from' if saved is not None else ''}"
            )
    return means


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


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
