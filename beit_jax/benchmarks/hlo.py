"""Reads the text of a compiled program: its computations, its instructions, and how often each of them runs."""

import collections
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
_CALLED = re.compile(r"(body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LIMIT = re.compile(r"%([\w.\-]+) = s32\[\]\S* constant\((\d+)\)")
_ARRAY = re.compile(r"\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_OPERAND = re.compile(r"%([\w.\-]+)")
LOOP_PARTS = ("body", "condition")
# Computations that are part of a kernel: their instructions are no kernels themselves.
FUSED = ("to_apply", "calls")


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str  # as text, a tuple of them in parentheses
    op: str
    line: str
    operands: tuple[str, ...]  # their names

    @property
    def op_name(self) -> str:
        """What it computes, in the names of JAX; empty where the compiler made it up."""
        found = re.search(r'op_name="([^"]*)"', self.line)
        return found[1] if found else ""

    def called(self, *roles: str) -> list[str]:
        """The names of the computations that it calls in these roles."""
        return [name for role, name in _CALLED.findall(self.line) if role in roles]


class Program:
    """The computations of a program.

    Args:
      text: of the compiled program (`compiled.as_text()`).
    """

    def __init__(self, text: str):
        self.computations = _read(text)

    def kernels(self) -> Iterator[tuple[Instruction, str, int]]:
        """Instructions that are no part of another one, with their computation and how often they run.

        A loop's body counts as often as the loop, where that can be read.
        """
        for name, count in self._count_runs().items():
            for instruction in self.computations[name]:
                yield instruction, name, count

    def within(self, kernel: Instruction) -> Iterator[Instruction]:
        """An instruction, and those of the computations that are part of it."""
        yield kernel
        if kernel.op != "call":
            for name in kernel.called(*FUSED):
                for one in self.computations[name]:
                    yield from self.within(one)

    def shape_of(self, computation: str, name: str) -> str:
        """The shape of an instruction, by its name."""
        return self._shapes[computation].get(name, "")

    @functools.cached_property
    def _shapes(self) -> dict[str, dict[str, str]]:
        return {name: {one.name: one.shape for one in lines} for name, lines in self.computations.items()}

    def _count_runs(self) -> dict[str, int]:
        counts: collections.Counter[str] = collections.Counter()

        def visit(name: str, runs: int) -> None:
            counts[name] += runs
            for instruction in self.computations[name]:
                for role, called in _CALLED.findall(instruction.line):
                    if role not in FUSED or instruction.op == "call":
                        visit(called, runs * (self._trips(instruction) if role in LOOP_PARTS else 1))
                for branches in _BRANCHES.findall(instruction.line):
                    for called in branches.split(","):
                        visit(called.strip().lstrip("%"), runs)

        visit("", 1)
        return dict(counts)

    def _trips(self, loop: Instruction) -> int:
        """How often a loop runs: as XLA says, or up to the constant that its condition compares with; else once."""
        if match := _TRIPS.search(loop.line):
            return int(match[1])
        lines = [one for name in loop.called("condition") for one in self.computations[name]]
        limits = dict(match.groups() for one in lines if (match := _LIMIT.search(one.line)))
        compared = [one.operands[-1] for one in lines if one.op == "compare" and "direction=LT" in one.line]
        found = [int(limits[name]) for name in compared if name in limits]
        return found[0] if len(found) == 1 else 1


def _read(text: str) -> dict[str, list[Instruction]]:
    """The instructions of each computation, the entry's under an empty name."""
    found: dict[str, list[Instruction]] = {}
    name = None
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name = "" if match[1] else match[2]
            found[name] = []
        elif line.startswith("}"):
            name = None
        elif name is not None and (match := _INSTRUCTION.match(line)):
            *parts, rest = match.groups()
            found[name].append(Instruction(*parts, line, tuple(_OPERAND.findall(rest.split(")")[0]))))
    return found


def sides(shape: str) -> list[int]:
    """The sides of an array, the first of a tuple."""
    match = _ARRAY.search(shape)
    return [int(side) for side in match[2].split(",") if side] if match else []


def array_bytes(shape: str) -> int:
    """Bytes of an array, or of a tuple of arrays, such as `(f32[8,4]{1,0}, bf16[])`, without padding."""
    arrays = _ARRAY.findall(shape)
    return sum(math.prod(map(int, filter(None, sides.split(",")))) * int(bits or 8) // 8 for bits, sides in arrays)
