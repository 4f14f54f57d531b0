"""What a run prints while it trains, and the table of its parameters."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from beit_jax.runtime.atomic_write import write_text
from beit_jax.runtime.distributed import is_main, print_once
from beit_jax.runtime.optional_writes import OptionalWrites

PARAMETERS = "parameters.txt"


def describe(
    name: str, step: int, total: int, values: Mapping[str, float], speed: Mapping[str, float], left: float, devices: int
) -> str:
    """One line of progress.

    Args:
      name: of the run.
      step: that was made last.
      total: steps of the run.
      values: to show.
      speed: `examples_per_second`, and `input_wait`, the fraction of time spent waiting for input.
      left: seconds that the rest of the run will take.
      devices: their number.
    """
    minutes, seconds = divmod(round(left), 60)
    hours, minutes = divmod(minutes, 60)
    eta = f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    parts = [
        f"{name} {step}/{total}",
        format_values(values),
        f"{speed['examples_per_second'] / devices:,.0f} examples/s/device",
        f"input wait {speed['input_wait']:.0%}",
        *([f"memory {peak / 2**30:.1f} GiB"] if peak else []),
        f"{eta} left",
    ]
    return "  ".join(parts)


def format_values(values: Mapping[str, float]) -> str:
    """Names and numbers in one line."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def describe_devices(mesh: Mesh) -> str:
    """Number and kind of the devices."""
    return f"{mesh.size} {mesh.devices.flat[0].device_kind} device(s)"


def write_parameters(run: Path, lines: Sequence[str], mode: str) -> None:
    """Keeps lines in the run's `parameters.txt`, and prints the last one."""

    def write() -> None:
        path = run / PARAMETERS
        before = path.read_text(encoding="utf-8") if mode == "a" and path.exists() else ""
        write_text(path, before + "".join(f"{line}\n" for line in lines))

    if is_main():
        OptionalWrites(str(run / PARAMETERS)).attempt(write)
    print_once(f"{run.name}: {lines[-1]}")
