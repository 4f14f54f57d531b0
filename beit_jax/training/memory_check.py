"""Refuses a run that does not fit into memory before its first step, in one line that says what to lower.

`check_shapes` comes before anything is allocated or compiled, and compares with what no compiler can avoid;
`check_plan` compares with what the compiler plans. Neither refuses what would run.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import jax

from beit_jax.errors import UserError
from beit_jax.runtime.distributed import print_once
from beit_jax.training import memory, memory_advice
from beit_jax.training.memory_estimate import estimated_bytes, largest_written
from beit_jax.training.memory_limit import MemoryLimit, find_limit
from beit_jax.training.sharding import batch_shards

if TYPE_CHECKING:
    from beit_jax.experiment import Experiment

MARGIN = 2.0  # from an estimate to the compiler's plan; up to 1.8 was seen


def check_shapes(experiment: "Experiment") -> None:
    """Checks that state, frozen parameters, a batch, and one more array that must be written, fit.

    Nothing of the run may be allocated yet.

    Raises:
      UserError: they do not; the value that the message names is estimated.
    """
    limit = find_limit(experiment.mesh)
    if limit is None:
        return
    held = _held(experiment, limit.on_host)
    for name, traced in experiment.trace().items():
        # Compilers for accelerators may fuse any operation.
        least = held + (largest_written(traced) // experiment.mesh.size if limit.on_host else 0)
        if least > limit.size:

            def may_fit(smaller: "Experiment") -> bool:
                return _held(smaller, limit.on_host) + MARGIN * _results(smaller) <= limit.size

            raise _too_large(f"{name} needs at least", least, limit, memory_advice.advise(experiment, may_fit))


def check_plan(experiment: "Experiment", name: str, program: jax.stages.Compiled, limit: MemoryLimit | None) -> None:
    """Checks that a compiled program of a run fits.

    Args:
      experiment: whose state and frozen parameters are allocated.
      name: of the program in `Experiment.trace`.
      program: compiled.
      limit: read when the state was allocated; None: not known.

    Raises:
      UserError: it does not. The value that the message names was compiled too, and fits.
    """
    if limit is None:
        return
    held, planned = 0 if limit.on_host else _held(experiment, limit.on_host), _planned(program)
    if held + planned <= limit.size:
        return
    print_once(f"{experiment.folder.name}: {name} does not fit into memory; looking for a batch that does")
    factor = planned / max(_results(experiment), 1)

    def may_fit(smaller: "Experiment") -> bool:
        return held + factor * _results(smaller) <= limit.size

    def fits(smaller: "Experiment") -> bool:
        return all(held + _planned(traced.lower().compile()) <= limit.size for traced in smaller.trace().values())

    raise _too_large(f"{name} needs", held + planned, limit, memory_advice.advise(experiment, may_fit, fits))


def estimate(experiment: "Experiment") -> int:
    """Bytes on each device that a run will take, by an estimate: what it holds, and the results of a program.

    It allocates and compiles nothing.
    """
    on_host = experiment.mesh.devices.flat[0].platform == "cpu"
    return _held(experiment, on_host) + _results(experiment)


@contextlib.contextmanager
def explained(advice: Callable[[], str]) -> Iterator[None]:
    """Memory that runs out in the block becomes one line that ends in the advice.

    Raises:
      UserError: memory ran out.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"memory ran out{f' ({reason})' if reason else ''}: {advice()}") from error


def _too_large(what: str, size: float, limit: MemoryLimit, advice: str) -> UserError:
    sizes = [f"{number / 2**20:,.0f} MiB" for number in (size, limit.size)]
    return UserError(f"{what} {sizes[0]} of memory, and {sizes[1]} are {limit.where}; {advice}")


def _held(experiment: "Experiment", on_host: bool) -> int:
    """Bytes on each device of what is there beside a program's results: state, frozen parameters and a batch."""
    tree = experiment.abstract_state, experiment.abstract_frozen, experiment.abstract_batch
    if on_host:  # whose devices may share what is replicated
        return sum(map(memory.total_bytes, jax.tree.leaves(tree))) // experiment.mesh.size
    return memory.bytes_per_device(tree)


def _planned(program: jax.stages.Compiled) -> int:
    plan = memory.compiled_bytes_per_device(program)
    return plan["outputs"] + plan["temporaries"]


def _results(experiment: "Experiment") -> int:
    """Bytes on each device of the results of the largest program."""
    return max(map(estimated_bytes, experiment.trace().values())) // batch_shards(experiment.mesh)
