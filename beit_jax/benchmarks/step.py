"""The training step on made-up batches: images a second, and how far that is from what the chip can do."""

import itertools
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from beit_jax.benchmarks import chips, program, synthetic
from beit_jax.benchmarks.timing import WARM, in_turns
from beit_jax.errors import UserError
from beit_jax.experiment import Experiment
from beit_jax.training import memory, sharding
from beit_jax.typing import Batch, HostBatch

ROUNDS = 5  # turns, of which the median is told


class Step:
    """A contestant of `timing.in_turns`: the compiled step of an experiment.

    Args:
      experiment: without data.
      batches: one batch, which stays on the devices, or an iterator of them.

    Attributes:
      compile_seconds: what tracing and compiling took.
      planned_bytes: what the compiler plans to take on each device.
      loss: of the last step.
      waited: seconds of waiting for batches so far.
    """

    def __init__(self, experiment: Experiment, batches: HostBatch | Iterator[HostBatch]):
        start = time.perf_counter()
        self._update = experiment.trace_step().lower().compile()
        self.compile_seconds = time.perf_counter() - start
        self.planned_bytes = memory.compiled_bytes_per_device(self._update)["peak"]
        self._mesh, self.loss, self.waited = experiment.mesh, float("nan"), 0.0
        self._state, self._frozen, self._key = experiment.fresh_state(), experiment.frozen, experiment.keys[1]
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

    def _read(self, stream: Iterator[HostBatch], names: Iterable[str]) -> Iterator[Batch]:
        while True:
            start = time.perf_counter()
            rows = next(stream)
            self.waited += time.perf_counter() - start
            yield sharding.to_devices(self._mesh, {name: rows[name] for name in names})


def run(
    config: ConfigDict, stage: str, steps: int, vs: str | None, tokens_given: bool, real: bool, as_json: bool
) -> None:
    """Measures and prints.

    Raises:
      UserError: the config is wrong or does not fit the devices, or there is nothing to compare with.
    """
    jax.config.update("jax_enable_compilation_cache", False)  # it would hide the time of compiling
    found = measure(program.complete(config, stage, dtype="auto"), steps, vs, tokens_given, real)
    for line in _lines(found):
        print(line)
    if as_json:
        print(json.dumps(found))


def measure(
    config: ConfigDict, steps: int, vs: str | None = None, tokens_given: bool = False, real: bool = False
) -> dict[str, Any]:
    """Figures of a completed config's training step on the devices that are there.

    Args:
      config: from `program.complete`.
      steps: to time, in at most `ROUNDS` turns.
      vs: one of `table.BASELINES` to run in turns with it; tokens are then given to both.
      tokens_given: whether pre-training finds the tokens in its batches, instead of computing them.
      real: whether batches are read from the config's data instead of made up.

    Returns:
      `images_per_second`, `tflops` (10^12 model FLOPs a second), `mfu` (of the chip's peak) and `peak_bytes` of each
      device, None where not known (peak bytes of a CPU are those the compiler plans with); `step_ms`;
      `gflop_per_image`; `compile_seconds`; the last step's `loss`; `input_wait`, the share of waiting for batches; what
      was measured; with `vs`, our images per second over the `peer`'s, whose figures are there too.

    Raises:
      UserError: the config does not fit the devices, or there is nothing to compare with.
    """
    tokens_given = tokens_given or vs is not None or bool(config.get("tokens", ""))
    if tokens_given:
        if config.task != "pretrain":
            raise UserError(f"--vs and --tokens_given are for pre-training, but task={config.task!r}; leave them out")
        if real:
            raise UserError("--real reads images, whose tokens the step computes; leave out given tokens and --vs")
        if config.device_augment:
            raise UserError("given tokens are those of the official input mode; leave out fast")
        experiment = program.experiment_without_data(config, synthetic.pretrain_on_given_tokens(config))
    else:
        experiment = program.experiment_without_data(config)
    if vs and experiment.mesh.size > 1:
        raise UserError(f"--vs compares one device, found {experiment.mesh.size}; hide the others from JAX")
    dtype = program.dtype_of(config)
    batches = _stream(config) if real else synthetic.batch(config, experiment.task)
    peers = []
    if vs:  # first, since what it needs may be missing
        from beit_jax.benchmarks.torch_baseline import TorchPeer

        peers.append(TorchPeer(config, dtype, batches, vs))
    ours = Step(experiment, batches)
    rounds = min(ROUNDS, steps)
    calls = -(-steps // rounds)
    if real:
        ours(0, WARM)  # the input starts; that is no waiting between steps
        ours.waited = 0.0
    seconds = in_turns([ours, *peers], rounds, calls)
    found = _figures(experiment, ours, seconds[0], dtype, tokens_given)
    found["input_wait"] = ours.waited / (rounds * calls + WARM) / seconds[0] if real else 0.0
    for peer in peers:
        found["vs"] = seconds[1] / seconds[0]
        found["peer"] = {
            "name": peer.name,
            "images_per_second": config.batch_size / seconds[1],
            "step_ms": seconds[1] * 1e3,
            "peak_bytes": peer.peak_bytes(),
            "loss": peer.loss,
        }
    return found


def _stream(config: ConfigDict) -> Iterator[HostBatch]:
    """Training batches of the config's data."""
    from beit_jax.data import pipeline  # here, since it brings TensorFlow

    return iter(pipeline.make_train(config.data, seed=config.seed, batch_size=config.batch_size))


def _figures(experiment: Experiment, step: Step, seconds: float, dtype: str, tokens_given: bool) -> dict[str, Any]:
    config, device = experiment.config, jax.local_devices()[0]
    speed = config.batch_size / seconds / experiment.mesh.size
    per_image = experiment.task.training_flops()
    peak = chips.peak(device.device_kind, dtype)
    return {
        "task": config.task,
        "variant": config.model.get("variant", None),
        "device": device.device_kind,
        "devices": experiment.mesh.size,
        "batch_size": config.batch_size,
        "dtype": dtype,
        "tokens_given": tokens_given,
        "images_per_second": speed,
        "step_ms": seconds * 1e3,
        "gflop_per_image": per_image and per_image / 1e9,
        "tflops": per_image and per_image * speed / 1e12,
        "mfu": per_image * speed / peak if per_image and peak else None,
        "peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use", step.planned_bytes),
        "compile_seconds": step.compile_seconds,
        "loss": step.loss,
    }


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """The figures for people."""
    name = " ".join(filter(None, (found["task"], found["variant"])))
    tokens = ", tokens given" if found["tokens_given"] else ""
    devices = f"{found['devices']} {found['device']} device(s)"
    yield f"{name}: training step, batch {found['batch_size']}, {found['dtype']}{tokens}, on {devices}"
    yield f"  {found['images_per_second']:,.1f} images/s per device, {found['step_ms']:,.1f} ms a step"
    if found["tflops"] is not None:
        mfu = "MFU not known for this chip and type" if found["mfu"] is None else f"MFU {found['mfu']:.1%}"
        yield f"  {found['tflops']:.3g} TFLOP/s at {found['gflop_per_image']:.5g} GFLOP an image, {mfu}"
    planned = "" if jax.local_devices()[0].memory_stats() else ", as planned by the compiler"
    yield f"  peak memory {found['peak_bytes'] / 2**30:.2f} GiB{planned}"
    yield f"  compiled in {found['compile_seconds']:.1f} s, {found['input_wait']:.0%} of the time waiting for input"
    if "vs" in found:
        peer = found["peer"]
        yield f"{peer['name']}: the same batch and tokens; forward, backward, clipping, AdamW"
        yield f"  {peer['images_per_second']:,.1f} images/s, {peer['step_ms']:,.1f} ms a step"
        yield f"ours over theirs: {found['vs']:.2f}"
