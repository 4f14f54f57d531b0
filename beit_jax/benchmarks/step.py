"""The training step on synthetic batches: images a second, and what fraction of the chip's peak that is."""

import copy
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from beit_jax.benchmarks import chips, estimate, hlo, largest_batch, program, synthetic
from beit_jax.benchmarks.timing import WARMUP_CALLS, time_alternately
from beit_jax.errors import UserError
from beit_jax.experiment import STEP, Experiment
from beit_jax.tasks import create_task
from beit_jax.tasks.pretrain import Pretrain
from beit_jax.training import memory, memory_check, sharding
from beit_jax.training.memory_limit import find_limit
from beit_jax.typing import Batch, HostBatch

CPU_BATCH = 8  # examples a device: on a CPU more of them are no faster
FILLED = 0.95  # of the memory of an accelerator: its pieces do not fit together without gaps
ROUNDS = 5  # measurements, of which the median counts


class CompiledStep:
    """The compiled step of an experiment, with its state; see `timing.Timed`.

    Args:
      experiment: without data.
      batches: one batch, which stays on the devices, or an iterator of them.

    Attributes:
      compile_seconds: what tracing and compiling took.
      planned_bytes: what the compiler plans to take on each device.
      estimated_seconds: of a step, see `estimate`; None for a CPU, and for chips that `chips` does not know.
      loss: of the last step.
      wait_seconds: spent waiting for batches so far.
    """

    def __init__(self, experiment: Experiment, batches: HostBatch | Iterator[HostBatch]):
        start, limit = time.perf_counter(), find_limit(experiment.mesh)
        self._update = experiment.trace_step().lower().compile()
        self.compile_seconds = time.perf_counter() - start
        memory_check.check_plan(experiment, STEP, self._update, limit)
        self.planned_bytes = memory.compiled_bytes_per_device(self._update)["peak"]
        self.estimated_seconds = _estimate(experiment, self._update)
        self._mesh, self.loss, self.wait_seconds = experiment.mesh, float("nan"), 0.0
        self._state, self._frozen, self._key = experiment.fresh_state(), experiment.frozen, experiment.random_keys[1]
        if isinstance(batches, dict):
            self._batches = itertools.repeat(sharding.to_devices(experiment.mesh, batches))
        else:
            self._batches = self._read(batches, experiment.task.train_spec(1))

    def __call__(self, first: int, count: int) -> None:
        """Makes `count` steps, and waits for the last; the host runs ahead of the device in between."""
        for batch in itertools.islice(self._batches, count):
            self._state, metrics = self._update(self._state, self._frozen, batch, self._key)
        jax.block_until_ready((self._state, metrics))
        total, weight = metrics["loss"]
        self.loss = float(total) / float(weight)

    def _read(self, batches: Iterator[HostBatch], names: Iterable[str]) -> Iterator[Batch]:
        while True:
            start = time.perf_counter()
            batch = next(batches)
            self.wait_seconds += time.perf_counter() - start
            yield sharding.to_devices(self._mesh, {name: batch[name] for name in names})


def _estimate(experiment: Experiment, compiled: jax.stages.Compiled) -> float | None:
    chip = chips.chip_of(experiment.mesh.devices.flat[0].device_kind)
    if chip is None or not chip.bandwidth:
        return None
    return sum(kernel.seconds for kernel in estimate.kernels(hlo.Program(compiled.as_text()), chip))


def run(
    config: ConfigDict,
    stage: str,
    steps: int,
    vs: str | None,
    tokens_given: bool,
    real: bool,
    as_json: bool,
    largest: bool = False,
) -> None:
    """Measures and prints.

    Args:
      config: as the command line made it.
      stage: of a recipe; empty for a run.
      steps: see `measure_step`, as are `vs`, `tokens_given` and `real`.
      as_json: whether the last line is one JSON object.
      largest: whether the batch is to be the largest that the devices hold; a CPU takes `CPU_BATCH` examples.

    Raises:
      UserError: the config is wrong or does not fit the devices, or there is nothing to compare with.
    """
    jax.config.update("jax_enable_compilation_cache", False)  # it would hide the time of compiling
    config = program.complete_without_data(config, stage, dtype="auto")
    if largest:
        config.batch_size = _largest_batch(config, tokens_given or bool(vs))
    figures = measure_step(config, steps, vs, tokens_given, real)
    for line in _lines(figures):
        print(line)
    if as_json:
        print(json.dumps(figures))


def _largest_batch(config: ConfigDict, tokens_given: bool) -> int:
    """For the devices that there are.

    Raises:
      UserError: even the smallest batch does not fit, or the mesh does not fit the devices.
    """
    mesh = sharding.make_mesh(config.mesh)
    limit, shards = find_limit(mesh), sharding.batch_shards(mesh)
    if limit is None or limit.on_host:
        return CPU_BATCH * shards * config.optimizer.accumulate

    def planned(batch: int) -> int | None:
        changed = copy.deepcopy(config)
        changed.batch_size = batch
        task = synthetic.pretrain_on_given_tokens(changed) if tokens_given else None
        traced = program.experiment_without_data(changed, task).trace_step()
        try:
            return memory.compiled_bytes_per_device(traced.lower().compile())["peak"]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return None

    return largest_batch.find(planned, shards * config.optimizer.accumulate, FILLED * limit.size)


def measure_step(
    config: ConfigDict, steps: int, vs: str | None = None, tokens_given: bool = False, real: bool = False
) -> dict[str, Any]:
    """Figures of a completed config's training step on the devices that are there.

    Args:
      config: from `program.complete_without_data`.
      steps: to time, in at most `ROUNDS` measurements.
      vs: one of `table.BASELINES`, measured alternately with it; tokens are then given to both.
      tokens_given: whether pre-training finds the tokens in its batches, instead of computing them.
      real: whether batches are read from the config's data; otherwise they are synthetic.

    Returns:
      `estimate_ms`, see `estimate`: of a TPU XLA's own, of a GPU a lower bound; `images_per_second`, `tflops` (10^12
      model FLOPs a second), `mfu` (fraction of the chip's peak) and `peak_bytes`
      of each device, None where not known (peak bytes of a CPU are those the compiler plans with); `step_ms`;
      `gflop_per_image`; `compile_seconds`; the last step's `loss`; `input_wait`, the fraction of time spent waiting for
      batches; what was measured; with `vs`, the figures of the `baseline`, and `ours_over_baseline`, the ratio of
      images per second.

    Raises:
      UserError: the config does not fit the devices, or there is nothing to compare with.
    """
    task = create_task(config)
    tokens_given = tokens_given or vs is not None or (isinstance(task, Pretrain) and bool(config.tokens))
    if tokens_given:
        _check_given_tokens(task, real)
        task = synthetic.pretrain_on_given_tokens(config)
    experiment = program.experiment_without_data(config, task)
    if vs and experiment.mesh.size > 1:
        raise UserError(f"--vs compares one device, found {experiment.mesh.size}; hide the others from JAX")
    dtype = program.dtype_of(config)
    if real:
        batches = iter(experiment.data.train_batches(0, jax.process_count()))
    else:
        batches = synthetic.synthetic_batch(config, task)
    baselines = []
    if vs:  # first, since what it needs may be missing
        from beit_jax.benchmarks.torch_baseline import TorchBaseline

        baselines.append(TorchBaseline(config, dtype, batches, vs))
    ours = CompiledStep(experiment, batches)
    rounds = min(ROUNDS, steps)
    calls = -(-steps // rounds)
    if real:
        ours(0, WARMUP_CALLS)  # the input starts, which is no waiting between steps
        ours.wait_seconds = 0.0
    seconds = time_alternately([ours, *baselines], rounds, calls)
    figures = _figures(experiment, ours, seconds[0], dtype, tokens_given)
    figures["input_wait"] = ours.wait_seconds / (rounds * calls + WARMUP_CALLS) / seconds[0] if real else 0.0
    for baseline in baselines:
        figures["ours_over_baseline"] = seconds[1] / seconds[0]
        figures["baseline"] = {
            "name": baseline.name,
            "images_per_second": config.batch_size / seconds[1],
            "step_ms": seconds[1] * 1e3,
            "peak_bytes": baseline.peak_bytes(),
            "loss": baseline.loss,
        }
    return figures


def _check_given_tokens(task: Any, real: bool) -> None:
    """
    Raises:
      UserError: tokens cannot be given to the step of this task.
    """
    if not isinstance(task, Pretrain):
        raise UserError(
            f"--vs and --tokens_given are for pre-training on tokens, but task={task.config.task!r}; leave them out"
        )
    if real:
        raise UserError("--real reads images, whose tokens the step computes; leave out given tokens and --vs")
    if task.config.device_augment:
        raise UserError(
            f"device_augment={task.config.device_augment}: the step changes the colours of the images, which given "
            "tokens do not follow; leave one of them out, such as fast=True of configs/pretrain.py"
        )


def _figures(
    experiment: Experiment, step: CompiledStep, seconds: float, dtype: str, tokens_given: bool
) -> dict[str, Any]:
    config, device = experiment.config, jax.local_devices()[0]
    speed = config.batch_size / seconds / experiment.mesh.size
    per_image = experiment.task.training_flops()
    peak = chips.peak_flops(device.device_kind, dtype)
    return {
        "task": config.task,
        "variant": config.get("model", {}).get("variant", None),
        "device": device.device_kind,
        "devices": experiment.mesh.size,
        "batch_size": config.batch_size,
        "dtype": dtype,
        "tokens_given": tokens_given,
        "images_per_second": speed,
        "step_ms": seconds * 1e3,
        "estimate_ms": step.estimated_seconds and step.estimated_seconds * 1e3,
        "gflop_per_image": per_image and per_image / 1e9,
        "tflops": per_image and per_image * speed / 1e12,
        "mfu": per_image * speed / peak if per_image and peak else None,
        "peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use", step.planned_bytes),
        "compile_seconds": step.compile_seconds,
        "loss": step.loss,
    }


def _lines(figures: dict[str, Any]) -> Iterator[str]:
    """The figures for people."""
    name = " ".join(filter(None, (figures["task"], figures["variant"])))
    tokens = ", tokens given" if figures["tokens_given"] else ""
    devices = f"{figures['devices']} {figures['device']} device(s)"
    yield f"{name}: training step, batch {figures['batch_size']}, {figures['dtype']}{tokens}, on {devices}"
    estimate = "" if figures["estimate_ms"] is None else f" (estimate: {figures['estimate_ms']:,.1f})"
    yield f"  {figures['images_per_second']:,.1f} images/s per device, {figures['step_ms']:,.1f} ms a step{estimate}"
    if figures["tflops"] is not None:
        mfu = "MFU not known for this chip and type" if figures["mfu"] is None else f"MFU {figures['mfu']:.1%}"
        yield f"  {figures['tflops']:.3g} TFLOP/s at {figures['gflop_per_image']:.5g} GFLOP an image, {mfu}"
    planned = "" if jax.local_devices()[0].memory_stats() else ", as planned by the compiler"
    yield f"  peak memory {figures['peak_bytes'] / 2**30:.2f} GiB{planned}"
    yield f"  compiled in {figures['compile_seconds']:.1f} s, {figures['input_wait']:.0%} of the time waiting for input"
    if "baseline" in figures:
        baseline = figures["baseline"]
        yield f"{baseline['name']}: the same batch and tokens; forward, backward, clipping, AdamW"
        yield f"  {baseline['images_per_second']:,.1f} images/s, {baseline['step_ms']:,.1f} ms a step"
        yield f"ours over baseline: {figures['ours_over_baseline']:.2f}"
