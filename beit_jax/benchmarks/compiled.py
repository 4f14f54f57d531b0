"""The training step compiled for simulated devices: the memory of each, and what they exchange."""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from beit_jax.benchmarks import collectives, program
from beit_jax.training import memory

REMATERIALIZATION = "nvoluntary full rematerialization"  # XLA could reshard only by gathering all of an array


def run(config: ConfigDict, stage: str, as_json: bool) -> None:
    """Compiles for the devices that there are, and prints.

    Raises:
      UserError: the config is wrong, or does not fit so many devices.
    """
    jax.config.update("jax_enable_compilation_cache", False)  # it would hide the time and the warnings
    figures = measure_compiled_step(program.complete_without_data(config, stage, dtype="bfloat16", remat="none"))
    for line in _lines(figures):
        print(line)
    if as_json:
        print(json.dumps(figures))


def measure_compiled_step(config: ConfigDict) -> dict[str, Any]:
    """Figures of the step of a completed config, compiled for the devices that are there.

    Returns:
      `parameters` and their `replicated_fraction`, the fraction of bytes that every device holds; `bytes_per_device`;
      `memory`, see `memory.compiled_bytes_per_device`; `collectives`, see `collectives.count_collectives`;
      `rematerializations`, XLA's warnings of arrays that every device gathers to shard them in another way;
      `compile_seconds`.

    Raises:
      UserError: the mesh does not fit the devices, the batch or the parameters.
    """
    experiment = program.experiment_without_data(config)
    start = time.perf_counter()
    with compiler_log() as log:
        # Machine code is not optimised, since it is not run; what XLA makes of the graph is the same.
        compiled = experiment.trace_step().lower().compile({"xla_backend_optimization_level": 0})
    seconds = time.perf_counter() - start
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
        "memory": memory.compiled_bytes_per_device(compiled),
        "collectives": collectives.count_collectives(compiled.as_text(), experiment.mesh.size),
        "rematerializations": count_rematerializations(log),
        "compile_seconds": seconds,
    }


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
    yield f"{figures['devices']} simulated device(s), {mesh}, batch {figures['batch_size']}, {figures['dtype']}"
    fraction = figures["replicated_fraction"]
    yield f"{figures['parameters']:,} parameters, {fraction:.1%} of their bytes replicated on every device"
    yield memory.format_sizes("state", figures["bytes_per_device"])
    yield memory.format_sizes("planned by the compiler", figures["memory"])
    yield "MiB that each device sends in a step"
    for kind, sums in figures["collectives"].items():
        yield f"  {kind:<22}{sums['bytes'] / 2**20:12,.1f}  in {sums['count']:,} operations"
    yield f"involuntary full rematerializations: {figures['rematerializations']}"
    yield f"compiled in {figures['compile_seconds']:.1f} s"
