"""How much memory this process may still take on its host, or in its container or Slurm job.

Swap counts as memory, because a program that fits into both is slow but runs.
"""

import os
from collections.abc import Iterator
from pathlib import Path

KIB = 1024


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take; None where the system does not say.

    It is the smallest number that the host and the control groups of this process leave. Files that the kernel keeps in
    memory count as free.

    Args:
      root: where `proc` and `sys` lie.
    """
    host = _host_bytes(root / "proc" / "meminfo")
    if host is None:
        return _physical_bytes()
    memory, swap = host
    return max(min([memory + swap, *_group_bytes(root, swap)]), 0)


def _host_bytes(meminfo: Path) -> tuple[int, int] | None:
    """Memory and swap that are free."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        values = {name: int(value.split()[0]) * KIB for name, _, value in (line.partition(":") for line in lines)}
        return values["MemAvailable"], values["SwapFree"]
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _physical_bytes() -> int | None:
    """All memory of a host without `/proc`, such as a Mac, which compresses memory and swaps to files as it needs."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _group_bytes(root: Path, swap: int) -> Iterator[int]:
    """What each control group with a limit leaves to this process, with the swap that it may use."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for folder in _with_parents(root / "sys" / "fs" / "cgroup", path):
                yield from _version_2(folder, swap)
        elif "memory" in controllers.split(","):
            for folder in _with_parents(root / "sys" / "fs" / "cgroup" / "memory", path):
                yield from _version_1(folder, swap)


def _with_parents(top: Path, path: str) -> list[Path]:
    """The folder of a group and those of the groups around it; in a container the top is the container's own group."""
    folders, folder = [top], top
    for part in filter(None, path.split("/")):
        folder = folder / part
        folders.append(folder)
    return folders


def _version_2(folder: Path, swap: int) -> Iterator[int]:
    limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
    if limit is None or used is None:
        return
    swap_limit, swap_used = _number(folder / "memory.swap.max"), _number(folder / "memory.swap.current")
    if swap_limit is not None and swap_used is not None:
        swap = min(swap, swap_limit - swap_used)
    yield limit - used + _reclaimable(folder, ("active_file", "inactive_file", "slab_reclaimable")) + swap


def _version_1(folder: Path, swap: int) -> Iterator[int]:
    reclaimable = _reclaimable(folder, ("total_active_file", "total_inactive_file"))
    for name, extra in (("memory", swap), ("memory.memsw", 0)):  # memory, and memory with swap
        limit, used = _number(folder / f"{name}.limit_in_bytes"), _number(folder / f"{name}.usage_in_bytes")
        if limit is not None and used is not None:
            yield limit - used + reclaimable + extra


def _number(file: Path) -> int | None:
    """None if the file is not there, or says `max`."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _reclaimable(folder: Path, names: tuple[str, ...]) -> int:
    """Bytes that the kernel frees when the group needs them: files that it keeps in memory."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        return sum(int(value) for name, value in map(str.split, lines) if name in names)
    except (OSError, ValueError):
        return 0
