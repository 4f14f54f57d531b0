"""What each device holds: by the shardings of the arrays, and as the compiler plans it."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from beit_jax.errors import UserError
from beit_jax.tasks.task import Params
from beit_jax.training.params import choose, flatten, map_names
from beit_jax.training.sharding import PARTITION
from beit_jax.training.train_step import TrainState

SMALL = 2**20  # bytes; biases, norms and tables are whole by rule, and of no weight


def size(leaf: Any) -> int:
    """Bytes of a whole array, or of a shape."""
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def held(tree: Any) -> int:
    """Bytes of a tree of arrays, or of shapes with shardings, on each device."""
    return sum(map(_held, jax.tree.leaves(tree)))


def _held(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def parts(state: TrainState, frozen: Mapping[str, Params]) -> dict[str, int]:
    """Bytes on each device of the parts of a train state, and of what the task does not learn."""
    return {
        "parameters": held(state.params),
        "optimizer_state": held(state.opt_state),
        "averaged_parameters": held(state.ema),
        "frozen_parameters": held(frozen),
    }


def planned(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes that a compiled step takes on each device.

    Returns:
      `arguments`; `outputs` that do not take the place of arguments, and those that do, `aliased`; `temporaries`; and
      `peak`, all but the aliased ones: XLA's own figure for CPU leaves the temporaries out.
    """
    plan = compiled.memory_analysis()
    arguments, temporaries, aliased = plan.argument_size_in_bytes, plan.temp_size_in_bytes, plan.alias_size_in_bytes
    outputs = plan.output_size_in_bytes - aliased
    return {
        "arguments": arguments,
        "outputs": outputs,
        "aliased": aliased,
        "temporaries": temporaries,
        "peak": arguments + outputs + temporaries,
    }


def line(title: str, sizes: Mapping[str, int]) -> str:
    """Sizes in bytes as one line in MiB, those of 0 left out."""
    told = [f"{name.replace('_', ' ')} {count / 2**20:,.1f}" for name, count in sizes.items() if count]
    return f"MiB on each device, {title}: {', '.join(told)}"


def describe(state: TrainState, frozen: Mapping[str, Params]) -> list[str]:
    """Lines of a table of all parameters: name, shape, dtype, sharding, bytes per device; and all parts' totals."""
    header = ("parameter", "shape", "dtype", "split over", "bytes/device")
    rows = [
        (
            name,
            "x".join(map(str, leaf.shape)) or "1",
            str(leaf.dtype),
            ",".join(map(str, leaf.sharding.spec)) or "whole",
            f"{_held(leaf):,}",
        )
        for name, leaf in flatten(state.params).items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [header, *rows]]
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    return [*table, f"{count:,} parameters; {line('held', parts(state, frozen))}"]


def check_replicated(mesh: Mesh, limit: float, state: TrainState, frozen: Mapping[str, Params]) -> None:
    """Checks that a mesh that is there to split parameters does.

    Args:
      mesh: where `fsdp` and `tensor` are 1, nothing is checked; where one of them is, arrays that the rules split over
        it alone do not count as whole, such as convolutions, which `tensor` does not split.
      limit: on the share of bytes that every device holds whole; arrays below `SMALL` do not count as whole.
      state: arrays, or shapes with shardings.
      frozen: the same, of what the task does not learn.

    Raises:
      UserError: the share is above the limit; names the largest of these arrays.
    """
    if mesh.shape["fsdp"] * mesh.shape["tensor"] == 1:
        return
    sizes, whole = [], {}

    def add(name: str, leaf: Any) -> None:
        sizes.append(size(leaf))
        axes = [axis for axis in choose(PARTITION, name) if axis]
        by_rule = axes and all(mesh.shape[axis] == 1 for axis in axes)
        if size(leaf) == _held(leaf) >= SMALL and not by_rule:
            whole[name] = size(leaf)

    map_names(add, {"state": state, "frozen": frozen})
    share = sum(whole.values()) / sum(sizes)
    if share > limit:
        largest = sorted(whole, key=lambda name: -whole[name])[:3]
        raise UserError(
            f"{share:.1%} of the bytes of parameters and optimizer state would be whole on every device (largest: "
            f"{', '.join(f'{name}, {whole[name] / 2**20:,.0f} MiB' for name in largest)}), expected at most "
            f"mesh.max_replicated={limit:g}; choose mesh.fsdp (now {mesh.shape['fsdp']}) and mesh.tensor (now "
            f"{mesh.shape['tensor']}) to divide their sides, or give them a rule in training/sharding.py"
        )
