"""How much a compiled program makes its devices exchange, read from the text of its HLO."""

import collections
import math
import re

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ({'|'.join(KINDS)})\(")
_CALLED = re.compile(r"(body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
# Groups are written out, as a reshaped range, or as axes of a mesh, of which "'a':(2)4" is a part of 4.
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_OF_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\].*? \{('[^}]*)\}")
_AXIS_SIZE = re.compile(r"'([^']+)'=(\d+)")
_AXIS = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")


def count_collectives(hlo: str, devices: int) -> dict[str, dict[str, int]]:
    """What each device sends in one run of a program.

    Sizes are those of ring algorithms over groups of g devices: (g - 1)/g of the complete array for an all-gather, a
    reduce-scatter and an all-to-all, twice that for an all-reduce, all of it for a permutation. What happens in a
    loop's body counts as often as the loop runs, where XLA knows that, and once where it does not.

    Args:
      hlo: text of the compiled program (`compiled.as_text()`).
      devices: how many run it.

    Returns:
      `{kind: {"count": operations, "bytes": sent by each device}}` of every kind in `KINDS`.
    """
    lines = _computations(hlo)
    runs = _count_runs(lines)
    sums = {kind: {"count": 0, "bytes": 0} for kind in KINDS}
    for name, body in lines.items():
        for line in body:
            if runs[name] and (match := _COLLECTIVE.match(line)):
                shape, kind = match.groups()
                sums[kind]["count"] += runs[name]
                sums[kind]["bytes"] += runs[name] * _bytes_sent(kind, _array_bytes(shape), _group_size(line, devices))
    return sums


def _computations(hlo: str) -> dict[str, list[str]]:
    """The lines of each computation, the entry's under an empty name."""
    lines: dict[str, list[str]] = {}
    name = None
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            name = "" if match[1] else match[2]
            lines[name] = []
        elif line == "}":
            name = None
        elif name is not None:
            lines[name].append(line)
    return lines


def _count_runs(lines: dict[str, list[str]]) -> collections.Counter[str]:
    """How often each computation runs."""
    counts: collections.Counter[str] = collections.Counter()

    def visit(name: str, runs: int) -> None:
        counts[name] += runs
        for line in lines[name]:
            trips = int(match[1]) if (match := _TRIPS.search(line)) else 1
            for role, called in _CALLED.findall(line):
                visit(called, runs * (trips if role in ("body", "condition") else 1))
            for branches in _BRANCHES.findall(line):
                for called in branches.split(","):
                    visit(called.strip().lstrip("%"), runs)

    visit("", 1)
    return counts


def _array_bytes(shape: str) -> int:
    """Bytes of an array, or of a tuple of arrays, such as `(f32[8,4]{1,0}, bf16[])`."""
    arrays = _ARRAY.findall(shape)
    return sum(math.prod(map(int, filter(None, sides.split(",")))) * int(bits or 8) // 8 for bits, sides in arrays)


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
