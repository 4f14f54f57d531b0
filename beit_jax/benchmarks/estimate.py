"""How long a compiled program takes on a chip that is not there: an estimate for TPUs, a lower bound for GPUs.

TPU: XLA writes the cycles that its own cost model expects beside every kernel. By it, one large product reaches 70% to
90% of the peak (`chips.py`). It says nothing of Pallas kernels: they get a lower bound, from the FLOPs and bytes that
they state. The time of collectives is not in the sum (`collectives.py`).
GPU: there is no cost model. Every kernel takes at least the time of its FLOPs, and that of moving its inputs and
outputs once, at 80% of what the data sheet says, which well-tuned kernels reach.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from beit_jax.benchmarks import hlo
from beit_jax.benchmarks.chips import Chip

REACHED = 0.8  # of the speeds in a GPU's data sheet
LAUNCH_S = 1.5e-6  # of a kernel on a GPU
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id", "while"}
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_STATED = re.compile(r'"cost_estimate":\{([^}]*)\}')
_INNER = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LIBRARY_INNER = re.compile(r'"lhs_contracting_dimensions":\[([^\]]*)\]')
_WINDOW = re.compile(r"size=([\dx]+)")
_LABELS = re.compile(r"dim_labels=[^_]*_([^-]*)->")
_WRAPPERS = re.compile(
    r"(transpose|jvp|jit|vmap|checkpoint|rematted_computation|shard_map|while|body|cond|closed_call|remat\d*)"
)
_INNER_NAMES = re.compile(r"->|\._|^[A-Z]\w*$|^dynamic_")  # of operations, methods, and the whole model


class Kernel(NamedTuple):
    """A kernel of the program."""

    name: str  # the part of the model, such as encoder/blocks/mlp/fc1
    direction: str  # "forward", "backward" or "update"
    operation: str  # of XLA
    seconds: float  # of all its runs


def kernels(program: hlo.Program, chip: Chip) -> list[Kernel]:
    """The time of every kernel of a program for a chip, in all of its runs."""
    found = []
    for instruction, computation, runs in program.kernels():
        if instruction.op in FREE:
            continue
        if chip.clock:
            seconds = _tpu_seconds(instruction, chip)
        else:
            seconds = _gpu_seconds(program, instruction, computation, chip)
        if seconds:
            found.append(Kernel(*_part(instruction.op_name), instruction.op, runs * seconds))
    return found


def by_part(found: list[Kernel]) -> Iterator[tuple[str, str, float]]:
    """Seconds of each part of the model and direction, the largest first."""
    sums: collections.Counter[tuple[str, str]] = collections.Counter()
    for kernel in found:
        sums[kernel.direction, kernel.name] += kernel.seconds
    for (direction, name), seconds in sums.most_common():
        yield direction, name, seconds


def _part(op_name: str) -> tuple[str, str]:
    """The part of the model and the direction, from what JAX calls an operation.

    >>> _part("jit(step)/transpose(jvp(MaskedImageModel))/encoder/while/body/closed_call/blocks/mlp/fc1/dot_general")
    ('encoder/blocks/mlp/fc1', 'backward')
    """
    direction = "backward" if "transpose(" in op_name else "forward" if "jvp(" in op_name else "update"
    parts = [re.sub(r"^.*\(|\)+$", "", part) for part in op_name.split("/")[1:-1]]
    named = [part for part in parts if part and not _WRAPPERS.fullmatch(part) and not _INNER_NAMES.search(part)]
    if direction == "update":
        return "optimizer and metrics" if op_name else "copies", direction
    return "/".join(dict.fromkeys(named)) or "loss", direction


def _tpu_seconds(instruction: hlo.Instruction, chip: Chip) -> float:
    if match := _CYCLES.search(instruction.line):
        return int(match[1]) / chip.clock
    if match := _STATED.search(instruction.line):
        stated = {name: float(number) for name, number in re.findall(r'"(\w+)":"?([\d.eE+]+)', match[1])}
        return max(stated.get("flops", 0.0) / chip.peak, stated.get("bytes_accessed", 0.0) / chip.bandwidth)
    return 0.0


def _gpu_seconds(program: hlo.Program, instruction: hlo.Instruction, computation: str, chip: Chip) -> float:
    shapes = [program.shape_of(computation, name) for name in instruction.operands]
    inside = [one for name in instruction.called("calls") for one in program.computations[name]]
    moved = _moved_bytes(instruction.shape, shapes, {one.op for one in inside})
    flops = sum(_flops_within(program, name) for name in instruction.called("calls"))
    if instruction.op == "custom-call":
        flops += _library_flops(instruction, shapes)
    work = max(flops / (REACHED * chip.peak), moved / (REACHED * chip.bandwidth))
    return work + LAUNCH_S


def _moved_bytes(result: str, operands: list[str], operations: set[str]) -> float:
    """Bytes read and written once. Of a stack that a loop fills or reads, it is one layer, in place."""
    read, written = [hlo.array_bytes(shape) for shape in operands], hlo.array_bytes(result)
    depths = [sides[0] for shape in [result, *operands] if len(sides := hlo.sides(shape)) > 2]
    if "dynamic-update-slice" in operations and len(hlo.sides(result)) > 2:
        written //= hlo.sides(result)[0]
        read = [size // depths[0] if size == hlo.array_bytes(result) else size for size in read]
    elif "dynamic-slice" in operations:
        read = [min(size, written) if size > written else size for size in read]
    return sum(read) + written


def _flops_within(program: hlo.Program, name: str) -> float:
    total = 0.0
    for one in program.computations.get(name, []):
        if one.op == "dot":
            left = hlo.sides(program.shape_of(name, one.operands[0]))
            inner = [int(axis) for axis in _INNER.search(one.line)[1].split(",") if axis]
            total += 2 * math.prod(hlo.sides(one.shape)) * math.prod(left[axis] for axis in inner)
        total += sum(_flops_within(program, called) for called in one.called("calls"))
    return total


def _library_flops(instruction: hlo.Instruction, operands: list[str]) -> float:
    """Of a call of cuBLAS or cuDNN."""
    target = re.search(r'custom_call_target="([^"]+)"', instruction.line)[1]
    if "fmha" in target:
        batch, queries, heads, size = hlo.sides(operands[0])
        products = 5 if "Backward" in target else 2
        return products * 2 * batch * heads * queries * hlo.sides(operands[1])[1] * size
    outputs = math.prod(hlo.sides(instruction.shape))
    if "matmul" in target or "gemm" in target:
        match = _LIBRARY_INNER.search(instruction.line)
        left = hlo.sides(operands[0])
        return 2 * outputs * math.prod(left[int(axis)] for axis in re.findall(r"\d+", match[1] if match else ""))
    window, labels = _WINDOW.search(instruction.line), _LABELS.search(instruction.line)
    if "conv" in target and window:
        kernel = hlo.sides(operands[1])
        inner = kernel[labels[1].index("i")] if labels else 1
        return 2 * outputs * inner * math.prod(map(int, window[1].split("x")))
    return 0.0
