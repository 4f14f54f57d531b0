"""The training step compiled for devices that are not there: the memory of each, what they exchange, and its time."""

import contextlib
import copy
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from beit_jax.benchmarks import chips, collectives, estimate, hlo, largest_batch, program, sweep, synthetic
from beit_jax.errors import UserError
from beit_jax.experiment import Experiment
from beit_jax.training import memory, sharding

LINES = 20  # of the table of parts
# What libtpu says of programs that are too large, and of those that are far too large.
OUT_OF_MEMORY = re.compile(
    r"Used ([\d.]+\w+) of ([\d.]+\w+) hbm|temporaries \(([\d.]+\w+)\) exceeds available HBM \(([\d.]+\w+)\)"
)
REMATERIALIZATION = "nvoluntary full rematerialization"  # XLA could reshard only by gathering all of an array


def run(
    config: ConfigDict,
    stage: str,
    chip: str,
    tokens_given: bool,
    as_json: bool,
    settings: Sequence[str] = (),
    largest: bool = False,
) -> None:
    """Compiles for the devices that there are, or for a chip that is not there, and prints.

    Args:
      config: as the command line made it.
      stage: of a recipe; empty for a run.
      chip: see `chips.absent_devices`; empty: the devices that there are.
      tokens_given: see `measure_compiled_step`.
      as_json: whether the last line is one JSON object.
      settings: of a sweep, see `sweep.combinations`.
      largest: whether to look for the largest batch that the chip holds, and to compile for that.

    Raises:
      UserError: the config is wrong, does not fit so many devices, or its program does not fit the chip's memory.
    """
    jax.config.update("jax_enable_compilation_cache", False)  # it would hide the time and the warnings
    devices = chips.absent_devices(chip) if chip else None

    def measure(config: ConfigDict) -> dict[str, Any]:
        config = complete(config, stage, devices)
        if largest:
            config.batch_size = largest_batch_for(config, devices, tokens_given)
        return measure_compiled_step(config, devices, tokens_given)

    if settings:
        return sweep.run(config, settings, measure, as_json)
    figures = measure(config)
    for line in _lines(figures):
        print(line)
    if as_json:
        print(json.dumps(figures))


def complete(config: ConfigDict, stage: str, devices: list[jax.Device] | None) -> ConfigDict:
    """A config with values for all that data, other runs or the devices decide; None: simulated ones."""
    remat = "auto" if devices else "none"
    return program.complete_without_data(config, stage, "bfloat16", remat, devices[0] if devices else None)


def largest_batch_for(config: ConfigDict, devices: list[jax.Device], tokens_given: bool) -> int:
    """The largest batch of a completed config that the chip of absent devices holds.

    Raises:
      UserError: there is none, or the mesh does not fit the devices.
    """
    chip = chips.chip_of(devices[0].device_kind)
    shards = sharding.batch_shards(sharding.make_mesh(config.mesh, devices))

    def planned(batch: int) -> int | None:
        changed = copy.deepcopy(config)
        changed.batch_size = batch
        try:
            return measure_compiled_step(changed, devices, tokens_given)["memory"]["peak"]
        except TooLargeError:
            return None

    return largest_batch.find(planned, shards * config.optimizer.accumulate, chip.memory)


class TooLargeError(UserError):
    """A compiler refuses a program that the memory of its chip cannot hold."""


def measure_compiled_step(
    config: ConfigDict, devices: list[jax.Device] | None = None, tokens_given: bool = False
) -> dict[str, Any]:
    """Figures of the step of a completed config, compiled for the devices that are there or for absent ones.

    Args:
      config: from `complete`.
      devices: of `chips.absent_devices`; None: those that are there.
      tokens_given: whether pre-training finds the tokens in its batches, instead of computing them.

    Returns:
      `parameters` and their `replicated_fraction`, the fraction of bytes that every device holds; `bytes_per_device`;
      `memory`, see `memory.compiled_bytes_per_device`; `collectives`, see `collectives.count_collectives`;
      `rematerializations`, XLA's warnings of arrays that every device gathers to shard them in another way;
      `compile_seconds`; for absent devices also what `_on_chip` returns.

    Raises:
      UserError: the mesh does not fit the devices, the batch or the parameters, or the program not the chip's memory.
    """
    task = synthetic.pretrain_on_given_tokens(config) if tokens_given else None
    experiment = program.experiment_without_data(config, task, devices)
    start = time.perf_counter()
    with compiler_log() as log, _memory_errors(experiment):
        # Machine code for a CPU is not optimised, since it is not run; what XLA makes of the graph is the same.
        options = None if devices else {"xla_backend_optimization_level": 0}
        compiled = experiment.trace_step().lower().compile(options)
    seconds, text = time.perf_counter() - start, compiled.as_text()
    plan = memory.compiled_bytes_per_device(compiled)
    params = jax.tree.leaves(experiment.abstract_state.params)
    sizes = [(memory.total_bytes(leaf), memory.bytes_per_device(leaf)) for leaf in params]
    replicated = sum(total for total, per_device in sizes if total == per_device)
    examples = config.batch_size // (experiment.mesh.shape["data"] * experiment.mesh.shape["fsdp"])
    return {
        "devices": experiment.mesh.size,
        "mesh": dict(experiment.mesh.shape),
        "batch_size": config.batch_size,
        "dtype": program.dtype_of(config),
        "parameters": sum(leaf.size for leaf in params),
        "replicated_fraction": replicated / sum(map(memory.total_bytes, params)),
        "bytes_per_device": {
            **memory.state_bytes_per_device(experiment.abstract_state, experiment.abstract_frozen),
            "batch": sum(map(memory.total_bytes, experiment.task.train_spec(examples).values())),
        },
        "memory": plan,
        "collectives": collectives.count_collectives(text, experiment.mesh.size),
        "rematerializations": count_rematerializations(log),
        "compile_seconds": seconds,
        **(_on_chip(experiment, text, plan["peak"]) if devices else {}),
    }


def _on_chip(experiment: Experiment, text: str, peak_bytes: int) -> dict[str, Any]:
    """What the compiler says of a chip.

    Returns:
      `chip`; `choices` that were made for it; `step_ms`, which is `estimated` or a lower bound; `share_of_peak`,
      that of the model's FLOPs in this time; `images_per_second` of one device; `peak_bytes`, and whether that `fits`;
      `parts`, milliseconds of each part of the model and direction.
    """
    chip = chips.chip_of(experiment.mesh.devices.flat[0].device_kind)
    kernels = estimate.kernels(hlo.Program(text), chip)
    seconds = sum(kernel.seconds for kernel in kernels)
    speed = experiment.config.batch_size / experiment.mesh.size / seconds
    flops, model = experiment.task.training_flops(), experiment.config.get("model", {})
    return {
        "chip": chip.name,
        "choices": {key: model[key] for key in ("unroll", "remat", "attention") if key in model},
        "step_ms": seconds * 1e3,
        "estimated": bool(chip.clock),
        "share_of_peak": flops * speed / chip.peak if flops else None,
        "images_per_second": speed,
        "peak_bytes": peak_bytes,
        "fits": peak_bytes <= chip.memory,
        "parts": [[direction, name, part * 1e3] for direction, name, part in estimate.by_part(kernels)],
    }


@contextlib.contextmanager
def _memory_errors(experiment: Experiment) -> Iterator[None]:
    """
    Raises:
      TooLargeError: libtpu refuses a program that its chip cannot hold.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        found = OUT_OF_MEMORY.search(str(error))
        if not found:
            raise
        needed, there = filter(None, found.groups())
        raise TooLargeError(
            f"batch_size={experiment.config.batch_size} on {experiment.mesh.size} device(s) needs {needed} of "
            f"{there} on each; lower it, raise mesh.fsdp or optimizer.accumulate, or set model.remat='full'"
        ) from error


def count_rematerializations(log: list[str]) -> int:
    """How many XLA warns of: it does so with `TF_CPP_MIN_LOG_LEVEL` at 0 or 1, for programs that are in no cache."""
    return sum(REMATERIALIZATION in line for line in log)


@contextlib.contextmanager
def compiler_log() -> Iterator[list[str]]:
    """Lines that the compiler writes to the stderr of the process, past Python; they are written there afterwards."""
    lines: list[str] = []
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            lines.extend(file)
            sys.stderr.writelines(lines)


def _lines(figures: dict[str, Any]) -> Iterator[str]:
    """The figures for people."""
    mesh = " x ".join(f"{axis}={size}" for axis, size in figures["mesh"].items())
    kind = figures.get("chip", "simulated device(s)")
    yield f"{figures['devices']} {kind}, {mesh}, batch {figures['batch_size']}, {figures['dtype']}"
    fraction = figures["replicated_fraction"]
    yield f"{figures['parameters']:,} parameters, {fraction:.1%} of their bytes replicated on every device"
    yield memory.format_sizes("state", figures["bytes_per_device"])
    yield memory.format_sizes("planned by the compiler", figures["memory"])
    yield "MiB that each device sends in a step"
    for kind, sums in figures["collectives"].items():
        yield f"  {kind:<22}{sums['bytes'] / 2**20:12,.1f}  in {sums['count']:,} operations"
    yield f"involuntary full rematerializations: {figures['rematerializations']}"
    yield f"compiled in {figures['compile_seconds']:.1f} s"
    if "chip" in figures:
        yield from _chip_lines(figures)


def _chip_lines(figures: dict[str, Any]) -> Iterator[str]:
    chip = next(chip for chip in chips.CHIPS if chip.name == figures["chip"])
    yield ", ".join(f"model.{key}={value}" for key, value in figures["choices"].items())
    kind = "estimated by XLA's cost model" if chip.clock else "at least, by bytes and FLOPs of each kernel"
    share = "" if figures["share_of_peak"] is None else f", {figures['share_of_peak']:.1%} of peak"
    yield f"{figures['step_ms']:,.1f} ms a step, {figures['images_per_second']:,.0f} images/s on each{share}: {kind}"
    fits = "fits" if figures["fits"] else "does not fit"
    yield f"peak {figures['peak_bytes'] / 2**30:.2f} GiB of {chip.memory / 2**30:.2f}: {fits}"
    for direction, name, milliseconds in figures["parts"][:LINES]:
        yield f"  {milliseconds:8.2f} ms {milliseconds / figures['step_ms']:6.1%}  {direction:<9}{name}"
