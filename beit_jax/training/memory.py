"""Bytes on each device: of arrays, by their shardings, and of a compiled step, as the compiler plans it."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from beit_jax.errors import UserError
from beit_jax.training.params import choose, flatten, map_names
from beit_jax.training.sharding import PARTITION
from beit_jax.training.train_step import TrainState
from beit_jax.typing import Params

MAX_REPLICATED = 0.1  # fraction of the bytes of parameters and optimizer state
SMALL = 2**20  # bytes; the rules replicate biases, norms and tables, which are below it


def total_bytes(leaf: Any) -> int:
    """Bytes of an array or a shape, over all devices."""
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def bytes_per_device(tree: Any) -> int:
    """Bytes on each device of a tree of arrays, or of shapes with shardings."""
    return sum(map(_leaf_bytes_per_device, jax.tree.leaves(tree)))


def _leaf_bytes_per_device(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def state_bytes_per_device(state: TrainState, frozen: Mapping[str, Params]) -> dict[str, int]:
    """Bytes on each device of the parts of a train state, and of the frozen parameters."""
    return {
        "parameters": bytes_per_device(state.params),
        "optimizer_state": bytes_per_device(state.opt_state),
        "averaged_parameters": bytes_per_device(state.ema),
        "frozen_parameters": bytes_per_device(frozen),
    }


def compiled_bytes_per_device(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes that a compiled step needs on each device.

    Returns:
      `arguments`; `aliased`, the outputs that reuse the memory of arguments, and `outputs`, those that do not;
      `temporaries`; and `peak`, the sum without `aliased`: XLA's own peak on CPU leaves the temporaries out.
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


def format_sizes(title: str, sizes: Mapping[str, int]) -> str:
    """One line with sizes in MiB, from bytes; sizes of 0 are left out."""
    words = [f"{name.replace('_', ' ')} {count / 2**20:,.1f}" for name, count in sizes.items() if count]
    return f"MiB on each device, {title}: {', '.join(words)}"


def describe_parameters(state: TrainState, frozen: Mapping[str, Params]) -> list[str]:
    """Lines of a table of all parameters: name, shape, dtype, sharding, bytes per device; and a line of totals."""
    header = ("parameter", "shape", "dtype", "sharded over", "bytes/device")
    rows = [
        (
            name,
            "x".join(map(str, leaf.shape)) or "1",
            str(leaf.dtype),
            ",".join(map(str, leaf.sharding.spec)) or "replicated",
            f"{_leaf_bytes_per_device(leaf):,}",
        )
        for name, leaf in flatten(state.params).items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [header, *rows]]
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    return [*table, f"{count:,} parameters; {format_sizes('state', state_bytes_per_device(state, frozen))}"]


def check_replicated(
    mesh: Mesh, state: TrainState, frozen: Mapping[str, Params], limit: float = MAX_REPLICATED
) -> None:
    """Checks that a mesh with an axis for parameters shards most of their bytes.

    Args:
      mesh: if `fsdp` and `tensor` are 1, nothing is checked. Arrays count as sharded where the rules shard them only
        over an axis of size 1: `tensor` does not shard convolutions, for example.
      state: arrays, or shapes with shardings.
      frozen: the same, of the frozen parameters.
      limit: largest fraction of bytes that may be replicated; arrays below `SMALL` do not count as replicated.

    Raises:
      UserError: the fraction is above the limit; names the largest replicated arrays.
    """
    if mesh.shape["fsdp"] * mesh.shape["tensor"] == 1:
        return
    sizes, replicated = [], {}

    def add(name: str, leaf: Any) -> None:
        sizes.append(total_bytes(leaf))
        axes = [axis for axis in choose(PARTITION, name) if axis]
        by_rule = axes and all(mesh.shape[axis] == 1 for axis in axes)
        if total_bytes(leaf) == _leaf_bytes_per_device(leaf) >= SMALL and not by_rule:
            replicated[name] = total_bytes(leaf)

    map_names(add, {"state": state, "frozen": frozen})
    fraction = sum(replicated.values()) / sum(sizes)
    if fraction > limit:
        largest = sorted(replicated, key=lambda name: -replicated[name])[:3]
        raise UserError(
            f"{fraction:.1%} of the bytes of parameters and optimizer state would be replicated on every device "
            f"(largest: {', '.join(f'{name}, {replicated[name] / 2**20:,.0f} MiB' for name in largest)}), expected at "
            f"most {limit:.0%}; choose mesh.fsdp (now {mesh.shape['fsdp']}) and mesh.tensor (now "
            f"{mesh.shape['tensor']}) to divide the axes of these arrays, or give them a rule in training/sharding.py"
        )
