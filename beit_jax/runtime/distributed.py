"""Several processes as one run: how they find each other, wait for each other, agree, and end together.

All of it goes through the coordination service of `jax.distributed`, beside the devices: it works while they compute or
hang, and a wait that ends without all processes says which are missing.
"""

import collections
import contextlib
import importlib.util
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from beit_jax.errors import UserError

VARIABLES = ("BEIT_JAX_COORDINATOR", "BEIT_JAX_PROCESS_COUNT", "BEIT_JAX_PROCESS_INDEX")
KEYS = "beit_jax"  # the folder of our keys in the coordination service
START_S = 600  # for the last process to come up
BARRIER_S = 900  # a process that prepares data or reads a large checkpoint may be this much behind
LOOK_S = 1.0  # between two looks for a process that has failed
LAST_WORDS_S = 1.0  # between a process's word that it goes and its end
PART_S = 20  # for the others to hear of a failure, before the coordinator goes

_rounds: collections.Counter[str] = collections.Counter()
_joined = False  # a call to the service before it knows this process would end the process
_guard = threading.RLock()  # of `_joined`


def start() -> None:
    """Joins this process to its run; called before JAX touches its devices. A process by itself starts nothing.

    The three `VARIABLES` win; without them Slurm, Open MPI, Kubernetes and TPU pods are asked, by JAX.

    Raises:
      UserError: settings that are missing or wrong, or processes that do not come up.
    """
    global _joined
    import jax

    if not jax.distributed.is_initialized() and not _initialize():
        return
    _joined = True
    if count() > 1:
        client().key_value_set(f"{KEYS}/hosts/{index()}", socket.gethostname(), allow_overwrite=True)
        threading.Thread(target=_end_with_the_others, name="other processes", daemon=True).start()


def _initialize() -> bool:
    """Whether there are other processes, which are found then."""
    import jax

    settings = _explicit() or _detected()
    if settings is None or settings.get("num_processes") == 1:
        return False
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which `stop` listens to
    may_be_alone = settings.pop("may_be_alone", False)
    try:
        jax.distributed.initialize(initialization_timeout=START_S, **settings)
    except Exception as error:
        if may_be_alone and "coordinator_address should be defined" in str(error):
            return False
        raise UserError(
            "the processes of this run did not find each other "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); start all of them, or set {', '.join(VARIABLES)}"
        ) from error
    return True


def _explicit() -> dict[str, Any] | None:
    found = [os.environ.get(name, "") for name in VARIABLES]
    if not any(found):
        return None
    address, *numbers = found
    missing = [name for name, value in zip(VARIABLES, found) if not value]
    if missing and found[1] != "1":
        raise UserError(f"{' and '.join(missing)} not set; expected all of {', '.join(VARIABLES)}, or none")
    if found[1] == "1":
        return {"num_processes": 1}
    for name, value in zip(VARIABLES[1:], numbers):
        if not value.isdecimal():
            raise UserError(f"{name}={value!r}; expected a whole number")
    processes, this = map(int, numbers)
    if not this < processes or ":" not in address:
        raise UserError(
            f"{VARIABLES[0]}={address}, {VARIABLES[1]}={processes}, {VARIABLES[2]}={this}; expected HOST:PORT, the "
            "number of processes, and an index below it"
        )
    return dict(
        coordinator_address=address, num_processes=processes, process_id=this, cluster_detection_method="deactivate"
    )


def _detected() -> dict[str, Any] | None:
    """What JAX needs to be told where it finds the rest itself; None for a process by itself."""
    this = os.environ
    hosts = this.get("TPU_PROCESS_ADDRESSES", this.get("TPU_WORKER_HOSTNAMES"))
    if hosts is not None or "MEGASCALE_NUM_SLICES" in this:
        return {} if "," in (hosts or "") or int(this.get("MEGASCALE_NUM_SLICES", "1")) > 1 else None
    if "SLURM_STEP_NODELIST" in this and int(this.get("SLURM_NTASKS", "1")) > 1:
        one_a_node = this.get("SLURM_STEP_NUM_NODES") == this["SLURM_NTASKS"]
        return dict(cluster_detection_method="slurm", local_device_ids=_devices(one_a_node))
    if int(this.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        one_a_node = this.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
        return dict(cluster_detection_method="ompi", local_device_ids=_devices(one_a_node))
    if "KUBERNETES_SERVICE_HOST" in this and "JOB_COMPLETION_INDEX" in this:
        return dict(cluster_detection_method="k8s")
    if _on_tpu_vm():
        return {"may_be_alone": True}
    return None


def _devices(one_a_node: bool) -> list[int] | None:
    """None: JAX gives each process of a node one GPU of it. An empty list: the process has all that it sees."""
    return [] if one_a_node or os.environ.get("CUDA_VISIBLE_DEVICES", "").isdecimal() else None


def _on_tpu_vm() -> bool:
    wanted = os.environ.get("JAX_PLATFORMS", "")
    devices = any(Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0"))
    return devices and (not wanted or "tpu" in wanted) and importlib.util.find_spec("libtpu") is not None


def _state() -> Any:
    from jax._src import distributed  # the only way to the coordination service

    return distributed.global_state


def client() -> Any:
    """The coordination service of a run with several processes; None for a process by itself."""
    return _state().client if _joined else None


def index() -> int:
    """Which process this is; does not touch the devices."""
    return _state().process_id if client() else 0


def count() -> int:
    """How many processes the run has; does not touch the devices."""
    return _state().num_processes if client() else 1


def is_main() -> bool:
    """Whether this process writes what is written once: metrics, config, results, the report."""
    return index() == 0


def barrier(name: str, timeout_s: float = BARRIER_S) -> None:
    """Returns once every process has come to the barrier of this name.

    Raises:
      UserError: some did not come in time; names them.
    """
    _exchange(name, "", timeout_s)


def agree(flag: bool, timeout_s: float = BARRIER_S) -> bool:
    """Whether any process says yes; each one must ask equally often. Takes milliseconds, and no device."""
    return flag if count() == 1 else "1" in _exchange("agree", str(int(flag)), timeout_s).values()


def from_main(value: str, timeout_s: float = BARRIER_S) -> str:
    """The value that the main process gives; file systems may show different things to different hosts."""
    return value if count() == 1 else _exchange("from_main", value if is_main() else "", timeout_s)["0"]


def _exchange(name: str, value: str, timeout_s: float) -> dict[str, str]:
    """Every process's value."""
    if count() == 1:
        return {"0": value}
    _rounds[name] += 1
    folder = f"{KEYS}/{name}/{_rounds[name]}"
    client().key_value_set(f"{folder}/{index()}", value)
    try:
        client().wait_at_barrier(folder, round(timeout_s * 1000))
    except Exception as error:
        here = look(folder)
        missing = [str(process) for process in range(count()) if str(process) not in here]
        if not missing:
            raise UserError(f"barrier {name!r} failed: {str(error).splitlines()[0]}; start the run again") from error
        raise UserError(
            f"after {timeout_s:g} s at the barrier {name!r} these processes are missing: "
            f"{', '.join(map(_described, missing))}; look at their logs, and start the run again"
        ) from error
    return look(folder)


def _described(process: str) -> str:
    return f"{process} ({look(f'{KEYS}/hosts').get(process, 'never came up')})"


def look(folder: str) -> dict[str, str]:
    """What processes have left in a folder of the service, by their index; nothing for a process by itself."""
    with _guard:
        found = client().key_value_dir_get(folder) if client() else ()
    return {key.rpartition("/")[2]: value for key, value in found}


def finish() -> None:
    """Waits for the other processes and parts; without it the end of the coordinator would kill them."""
    global _joined
    if client():
        import jax

        sys.stdout.flush()
        barrier("end")  # until then this process answers the others
        with _guard:
            _joined = False
        jax.distributed.shutdown()


def fail(status: int, reason: str) -> NoReturn:
    """Ends this process with a status, and all others with the same: they would wait for it for ever."""
    if count() > 1:
        leave(status, f"process {_described(str(index()))}: {reason}")
    raise SystemExit(status)


def leave(status: int, reason: str = "") -> NoReturn:
    """Ends this process at once, from any thread; the coordinator waits until the others have gone.

    Args:
      status: of the process.
      reason: of a failure, which the other processes are told; empty where they end by themselves.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):  # whatever is wrong with the service, the process ends
        if reason:
            client().key_value_set(f"{KEYS}/failed/{index()}", f"{status} {reason}")
        client().key_value_set(f"{KEYS}/gone/{index()}", "", allow_overwrite=True)
        deadline = time.monotonic() + PART_S
        while is_main() and len(look(f"{KEYS}/gone")) < count() and time.monotonic() < deadline:
            time.sleep(0.05)
        if is_main() and count() > 1:
            time.sleep(LAST_WORDS_S)
    os._exit(status)


def _end_with_the_others() -> None:
    """The thread that ends this process when another one has failed."""
    while True:
        time.sleep(LOOK_S)
        try:
            failed = look(f"{KEYS}/failed")
        except Exception:
            return  # the service is gone; JAX ends the process
        others = [told for process, told in failed.items() if process != str(index())]
        if others:
            status, _, reason = others[0].partition(" ")
            print(f"error: {reason}; this process ends with it", file=sys.stderr)
            leave(int(status))
