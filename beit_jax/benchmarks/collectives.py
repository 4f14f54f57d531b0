"""How much a compiled program makes its devices exchange, read from the text of its HLO."""

import math
import re

from beit_jax.benchmarks import hlo

SEMAPHORE = "u32[]{:S(2)}"
KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

# Groups are written out, as a reshaped range, or as axes of a mesh, of which "'a':(2)4" is a part of 4.
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_OF_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\].*? \{('[^}]*)\}")
_AXIS_SIZE = re.compile(r"'([^']+)'=(\d+)")
_AXIS = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")


def count_collectives(text: str, devices: int) -> dict[str, dict[str, int]]:
    """What each device sends in one run of a program.

    Sizes are those of ring algorithms over groups of g devices: (g - 1)/g of the complete array for an all-gather, a
    reduce-scatter and an all-to-all, twice that for an all-reduce, all of it for a permutation. What happens in a
    loop's body counts as often as the loop runs, where XLA knows that, and once where it does not.

    Args:
      text: of the compiled program (`compiled.as_text()`).
      devices: how many run it.

    Returns:
      `{kind: {"count": operations, "bytes": sent by each device}}` of every kind in `KINDS`.
    """
    program = hlo.Program(text)
    sums = {kind: {"count": 0, "bytes": 0} for kind in KINDS}
    for kernel, computation, runs in program.kernels():
        if _continues(program, kernel, computation):
            continue
        for one in program.within(kernel):
            kind = one.op.removesuffix("-start")
            if kind in KINDS:
                size = _result_bytes(one)
                sums[kind]["count"] += runs
                sums[kind]["bytes"] += runs * _bytes_sent(kind, size, _group_size(one.line, devices))
    return sums


def _continues(program: hlo.Program, kernel: hlo.Instruction, computation: str) -> bool:
    """Whether a TPU's kernel goes on with, or ends, a collective that another one began: it takes a semaphore."""
    return kernel.op == "fusion" and any(
        SEMAPHORE in program.shape_of(computation, operand) for operand in kernel.operands
    )


def _result_bytes(collective: hlo.Instruction) -> int:
    """Bytes of the result. One that runs beside other work begins with its operand and its result in a tuple."""
    if not collective.op.endswith("-start") or not collective.shape.startswith("("):
        return hlo.array_bytes(collective.shape)
    arrays = re.findall(r"\w+\[[\d,]*\]", collective.shape)
    return hlo.array_bytes(arrays[1] if len(arrays) > 1 else arrays[0])


def _group_size(line: str, devices: int) -> int:
    """How many devices exchange with each other."""
    if match := _IOTA.search(line):
        return int(match[1])
    if match := _LISTED.search(line):
        return match[1].count(",") + 1
    if match := _OF_MESH.search(line):
        sizes = dict(_AXIS_SIZE.findall(match[1]))
        return math.prod(int(part or sizes[axis]) for axis, part in _AXIS.findall(match[2]))
    if "replica_groups={}" in line or "collective-permute(" in line:
        return devices
    raise ValueError(f"unknown notation of groups: {line.strip()}")


def _bytes_sent(kind: str, size: int, group: int) -> int:
    """Bytes that a device sends for a result of `size` bytes."""
    if kind == "collective-permute":
        return size
    if kind == "reduce-scatter":
        return size * (group - 1)
    return (2 if kind == "all-reduce" else 1) * size * (group - 1) // group
