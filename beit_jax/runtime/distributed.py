"""Several processes as one run: how they find each other, wait for each other, agree, and end together.

They communicate through the coordination service of `jax.distributed`, not through the devices. So it works while the
devices compute or hang, and a wait that times out says which processes are missing.
"""

import atexit
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
KEYS = "beit_jax"  # prefix of our keys in the coordination service
START_TIMEOUT_S = 600  # for the last process to start
BARRIER_TIMEOUT_S = 900  # for a process that prepares data or reads a large checkpoint
POLL_S = 1.0  # between two checks whether another process has failed
END_S = 10.0  # between the error of a single process and its end, at most
GRACE_S = 1.0  # between a process's message that it exits and its exit
EXIT_TIMEOUT_S = 20  # for the others to learn of a failure, before the coordinator exits

_rounds: collections.Counter[str] = collections.Counter()
_alone = False  # whether this process only reads configs or compiles
_joined = False  # whether the service knows this process; a call to it before that would end the process
_joined_lock = threading.RLock()
_failed: int | None = None  # the status of this process, once it ends because of an error


def stay_alone() -> None:
    """Makes this process no part of a run, for commands that read configs or compile: it takes no accelerator.

    `start` then waits for nobody. Called before JAX uses its devices; processes that are started are not affected.
    """
    global _alone
    import jax

    _alone = True
    jax.config.update("jax_platforms", "cpu")


def start() -> None:
    """Connects this process with the others of its run, if there are any; called before JAX uses its devices.

    Called again, it does nothing. The three `VARIABLES` have precedence. Without them JAX asks Slurm, Open MPI,
    Kubernetes and TPU pods.

    Raises:
      UserError: settings are missing or wrong, or other processes do not start.
    """
    global _joined
    import jax

    if _alone or _joined or not (jax.distributed.is_initialized() or _initialize()):
        return
    _joined = True
    if process_count() > 1:
        client().key_value_set(f"{KEYS}/hosts/{process_index()}", socket.gethostname(), allow_overwrite=True)
        threading.Thread(target=_exit_with_others, name="other processes", daemon=True).start()


def _initialize() -> bool:
    """Whether there are other processes; connects with them."""
    import jax

    settings = _explicit() or _detected()
    if settings is None or settings.get("num_processes") == 1:
        return False
    jax.config.update("jax_enable_preemption_service", False)  # it would handle SIGTERM, which `preemption` does
    may_be_alone = settings.pop("may_be_alone", False)
    try:
        jax.distributed.initialize(initialization_timeout=START_TIMEOUT_S, **settings)
    except Exception as error:
        if may_be_alone and "coordinator_address should be defined" in str(error):
            return False
        raise UserError(
            "the processes of this run did not find each other "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); start all of them, or set {', '.join(VARIABLES)}"
        ) from error
    return True


def _explicit() -> dict[str, Any] | None:
    """What `VARIABLES` say; None where none of them is set."""
    values = [os.environ.get(name, "") for name in VARIABLES]
    if not any(values):
        return None
    address, *numbers = values
    missing = [name for name, value in zip(VARIABLES, values) if not value]
    if missing and values[1] != "1":
        raise UserError(f"{' and '.join(missing)} not set; expected all of {', '.join(VARIABLES)}, or none")
    if values[1] == "1":
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
    """Arguments for JAX, which finds the rest in the cluster's variables; None for a single process."""
    this = os.environ
    hosts = this.get("TPU_PROCESS_ADDRESSES", this.get("TPU_WORKER_HOSTNAMES"))
    if hosts is not None or "MEGASCALE_NUM_SLICES" in this:
        return {} if "," in (hosts or "") or int(this.get("MEGASCALE_NUM_SLICES", "1")) > 1 else None
    if "SLURM_STEP_NODELIST" in this and int(this.get("SLURM_NTASKS", "1")) > 1:
        one_per_node = this.get("SLURM_STEP_NUM_NODES") == this["SLURM_NTASKS"]
        return dict(cluster_detection_method="slurm", local_device_ids=_devices(one_per_node))
    if int(this.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        one_per_node = this.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
        return dict(cluster_detection_method="ompi", local_device_ids=_devices(one_per_node))
    if "KUBERNETES_SERVICE_HOST" in this and "JOB_COMPLETION_INDEX" in this:
        return dict(cluster_detection_method="k8s")
    if _on_tpu_vm():
        return {"may_be_alone": True}
    return None


def _devices(one_per_node: bool) -> list[int] | None:
    """None: JAX gives each process of a node one of its GPUs. An empty list: the process uses all that it sees."""
    return [] if one_per_node or os.environ.get("CUDA_VISIBLE_DEVICES", "").isdecimal() else None


def _on_tpu_vm() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    devices = any(Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0"))
    return devices and (not platforms or "tpu" in platforms) and importlib.util.find_spec("libtpu") is not None


def _state() -> Any:
    from jax._src import distributed  # JAX has no public access to the coordination service

    return distributed.global_state


def client() -> Any:
    """The coordination service of a run with several processes; None for a single process."""
    return _state().client if _joined else None


def process_index() -> int:
    """The index of this process; does not use the devices."""
    return _state().process_id if client() else 0


def process_count() -> int:
    """The number of processes of the run; does not use the devices."""
    return _state().num_processes if client() else 1


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
    _exchange(name, "", timeout_s)


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
    if process_count() == 1:
        return {"0": value}
    _rounds[name] += 1
    folder = f"{KEYS}/{name}/{_rounds[name]}"
    client().key_value_set(f"{folder}/{process_index()}", value)
    try:
        client().wait_at_barrier(folder, round(timeout_s * 1000))
    except Exception as error:
        present = posted_values(folder)
        missing = [str(process) for process in range(process_count()) if str(process) not in present]
        if not missing:
            raise UserError(f"barrier {name!r} failed: {str(error).splitlines()[0]}; start the run again") from error
        raise UserError(
            f"after {timeout_s:g} s at the barrier {name!r} these processes are missing: "
            f"{', '.join(map(_described, missing))}; see their logs, and start the run again"
        ) from error
    return posted_values(folder)


def _described(process: str) -> str:
    return f"{process} ({posted_values(f'{KEYS}/hosts').get(process, 'never started')})"


def posted_values(folder: str) -> dict[str, str]:
    """What processes have posted to a folder of the service, by their index; nothing for a single process."""
    with _joined_lock:
        values = client().key_value_dir_get(folder) if client() else ()
    return {key.rpartition("/")[2]: value for key, value in values}


def finish() -> None:
    """Waits for the other processes and disconnects; otherwise the coordinator's exit would kill them."""
    global _joined
    if client():
        import jax

        sys.stdout.flush()
        barrier("end")  # until then this process answers the others
        with _joined_lock:
            _joined = False
        jax.distributed.shutdown()


def exit_all(status: int, reason: str) -> NoReturn:
    """Ends this process and all others with one status: they would wait for it for ever.

    Threads of libraries that do not end, such as those that wait for a disk, end with the process after `END_S`.
    """
    global _failed
    _failed = status
    if process_count() > 1:
        exit_process(status, f"process {_described(str(process_index()))}: {reason}")
    timer = threading.Timer(END_S, os._exit, (status,))
    timer.daemon = True  # runs while Python waits for other threads
    with contextlib.suppress(RuntimeError):  # this user may have no more threads
        timer.start()
    raise SystemExit(status)


def skip_teardown_after_errors() -> None:
    """Called before libraries are imported, whose handlers then run first. No timer ends what hangs in a teardown."""
    atexit.register(lambda: None if _failed is None else exit_process(_failed))


def exit_process(status: int, reason: str = "") -> NoReturn:
    """Ends this process at once, from any thread; the coordinator waits until the others have exited.

    Args:
      status: of the process.
      reason: of a failure, for the other processes, which then end too; empty where they end by themselves.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):  # the process ends even if the service fails
        if reason:
            client().key_value_set(f"{KEYS}/failed/{process_index()}", f"{status} {reason}")
        client().key_value_set(f"{KEYS}/exited/{process_index()}", "", allow_overwrite=True)
        deadline = time.monotonic() + EXIT_TIMEOUT_S
        while is_main() and len(posted_values(f"{KEYS}/exited")) < process_count() and time.monotonic() < deadline:
            time.sleep(0.05)
        if is_main() and process_count() > 1:
            time.sleep(GRACE_S)
    os._exit(status)


def _exit_with_others() -> None:
    """The thread that ends this process when another one has failed."""
    while True:
        time.sleep(POLL_S)
        try:
            failed = posted_values(f"{KEYS}/failed")
        except Exception:
            return  # the service is gone; JAX ends the process
        others = [message for process, message in failed.items() if process != str(process_index())]
        if others:
            status, _, reason = others[0].partition(" ")
            print(f"error: {reason}; this process ends with it", file=sys.stderr)
            exit_process(int(status))
