"""What the processes of one run tell each other: they wait for each other, agree, and know who is there.

They communicate through the coordination service of `jax.distributed`, not through the devices. So it works while the
devices compute or hang, and a wait that times out says which processes are missing. `membership` connects this process
with the service, and disconnects it.
"""

import collections
import socket
import threading
from typing import Any

from beit_jax.errors import UserError
from beit_jax.runtime.sign_of_life import Others

KEYS = "beit_jax"  # prefix of our keys in the coordination service
BARRIER_TIMEOUT_S = 900  # for a process that prepares data or reads a large checkpoint

joined = False  # whether the service knows this process; a call to it before that would end the process
joined_lock = threading.RLock()
others: Others | None = None  # of a run with several processes
_rounds: collections.Counter[str] = collections.Counter()


def state() -> Any:
    """What JAX knows of the run of this process."""
    from jax._src import distributed  # JAX has no public access to the coordination service

    return distributed.global_state


def client() -> Any:
    """The coordination service of a run with several processes; None for a single process."""
    return state().client if joined else None


def process_index() -> int:
    """The index of this process; does not use the devices."""
    return state().process_id if client() else 0


def process_count() -> int:
    """The number of processes of the run; does not use the devices."""
    return state().num_processes if client() else 1


def is_main() -> bool:
    """Whether this process writes what a run writes once: metrics, config, results, the report."""
    return process_index() == 0


def print_once(text: str) -> None:
    """Prints from the main process alone."""
    if is_main():
        print(text, flush=True)


def barrier(name: str, timeout_s: float = BARRIER_TIMEOUT_S) -> None:
    """Returns once every process has called it with this name.

    Raises:
      UserError: some did not in time; names them.
    """
    if process_count() > 1:
        _meet(name, "", timeout_s)


def any_process(flag: bool, timeout_s: float = BARRIER_TIMEOUT_S) -> bool:
    """Whether `flag` is true in any process; all must call it equally often. Takes milliseconds, and no device."""
    return flag if process_count() == 1 else "1" in _exchange("any", str(int(flag)), timeout_s).values()


def broadcast_from_main(value: str, timeout_s: float = BARRIER_TIMEOUT_S) -> str:
    """The value that the main process gives; a file system may show each host something else."""
    return value if process_count() == 1 else _exchange("main", value if is_main() else "", timeout_s)["0"]


def gather(name: str, value: str, timeout_s: float = BARRIER_TIMEOUT_S) -> list[str]:
    """The values of all processes, each of which must call it with this name."""
    return list(_exchange(name, value, timeout_s).values())


def _exchange(name: str, value: str, timeout_s: float) -> dict[str, str]:
    """The value of every process, by its index."""
    return {"0": value} if process_count() == 1 else posted_values(_meet(name, value, timeout_s))


def _meet(name: str, value: str, timeout_s: float) -> str:
    """Returns once every process has come, with a value; the folder of the values in the service."""
    _rounds[name] += 1
    folder = f"{KEYS}/{name}/{_rounds[name]}"
    client().key_value_set(f"{folder}/{process_index()}", value)
    try:
        client().wait_at_barrier(folder, round(timeout_s * 1000))
    except Exception as error:
        present = posted_values(folder)
        missing = [process for process in range(process_count()) if str(process) not in present]
        if not missing:
            raise UserError(f"barrier {name!r} failed: {str(error).splitlines()[0]}; start the run again") from error
        raise UserError(
            f"after {timeout_s:g} s at the barrier {name!r} these processes are missing: "
            f"{', '.join(map(describe, missing))}; see their logs, and start the run again"
        ) from error
    return folder


def describe(process: int) -> str:
    """The index of a process of this run, and its host."""
    host = socket.gethostname() if process == process_index() else others.host(process) if others else ""
    return f"{process} ({host or 'not heard of since the start'})"


def posted_values(folder: str) -> dict[str, str]:
    """What processes have posted to a folder of the service, by their index; nothing for a single process."""
    with joined_lock:
        values = client().key_value_dir_get(folder) if client() else ()
    return {key.rpartition("/")[2]: value for key, value in values}
