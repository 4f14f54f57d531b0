"""Several processes as one run: how they find each other, wait for each other, agree, and end together.

They communicate through the coordination service of `jax.distributed`, not through the devices. So it works while the
devices compute or hang, and a wait that times out says which processes are missing.
"""

import atexit
import collections
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Collection
from typing import Any, NoReturn

from beit_jax.errors import UserError
from beit_jax.runtime import cluster, coordinator_address, lost_service
from beit_jax.runtime.sign_of_life import SIGN_S, Others

HOW_TO_GO_ON = "start all processes again to continue from the newest checkpoint"
KEYS = "beit_jax"  # prefix of our keys in the coordination service
BARRIER_TIMEOUT_S = 900  # for a process that prepares data or reads a large checkpoint
NO_HEARTBEATS_S = 10 * 365 * 86400  # JAX's own limit of silence; `sign_of_life` has another one, and says more
DISCONNECT_TIMEOUT_S = 20  # for the others, once all have finished
END_S = 10.0  # between the error of a single process and its end, at most
GRACE_S = 1.0  # between a process's message that it exits and its exit
EXIT_TIMEOUT_S = 20  # for the others to learn of a failure, before the coordinator exits
ANSWER_TIMEOUT_S = 5  # of the coordinator, which may be what has failed
GONE_S = 8.0  # of silence, of a process with which a communication has failed

_rounds: collections.Counter[str] = collections.Counter()
_alone = False  # whether this process only reads configs or compiles
_joined = False  # whether the service knows this process; a call to it before that would end the process
_joined_lock = threading.RLock()
_others: Others | None = None  # of a run with several processes
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

    Called again, it does nothing. The three `cluster.VARIABLES` have precedence. Without them JAX asks Slurm, Open MPI,
    Kubernetes and TPU pods.

    Raises:
      UserError: settings are missing or wrong, or other processes do not start.
    """
    global _joined, _others
    import jax

    if _alone or _joined or not (jax.distributed.is_initialized() or _initialize()):
        return
    _joined = True
    if process_count() > 1:
        _others = Others(client(), KEYS, process_index(), process_count())
        _others.watch(_exit_with_another, _exit_without)


def _initialize() -> bool:
    """Whether there are other processes; connects with them."""
    import jax

    settings = cluster.find_settings()
    if settings is None or settings.get("num_processes") == 1:
        return False
    jax.config.update("jax_enable_preemption_service", False)  # it would handle SIGTERM, which `preemption` does
    may_be_alone = settings.pop("may_be_alone", False)
    start, text = time.monotonic(), f"waiting up to {cluster.START_TIMEOUT_S} s for all processes of this run to start"
    try:
        with coordinator_address.told_later(text), lost_service.reported_by(_exit_without_service):
            jax.distributed.initialize(
                initialization_timeout=cluster.START_TIMEOUT_S,
                heartbeat_timeout_seconds=NO_HEARTBEATS_S,
                **settings,
            )
    except Exception as error:
        if may_be_alone and "coordinator_address should be defined" in str(error):
            return False
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        if "bad_cast" in reason:  # see `lost_service`
            reason = "not all of them have started, or two have the same index"
        raise UserError(
            f"the processes of this run did not find each other within {time.monotonic() - start:.0f} s ({reason}); "
            f"start all of them, or set {', '.join(cluster.VARIABLES)}"
        ) from error
    return True


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
        missing = [process for process in range(process_count()) if str(process) not in present]
        if not missing:
            raise UserError(f"barrier {name!r} failed: {str(error).splitlines()[0]}; start the run again") from error
        raise UserError(
            f"after {timeout_s:g} s at the barrier {name!r} these processes are missing: "
            f"{', '.join(map(describe, missing))}; see their logs, and start the run again"
        ) from error
    return posted_values(folder)


def describe(process: int) -> str:
    """The index of a process of this run, and its host."""
    host = socket.gethostname() if process == process_index() else _others.host(process) if _others else ""
    return f"{process} ({host or 'not heard of since the start'})"


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
        if _others:
            _others.stop()
        with _joined_lock:
            _joined = False
        timer = threading.Timer(DISCONNECT_TIMEOUT_S, _end_connected)
        timer.daemon = True
        timer.start()
        jax.distributed.shutdown()
        timer.cancel()


def _end_connected() -> NoReturn:
    """Ends a process that cannot disconnect; nothing is lost, because all had finished."""
    print("warning: another process was killed or stopped, after all had finished", file=sys.stderr, flush=True)
    os._exit(0)


def exit_all(status: int, reason: str) -> NoReturn:
    """Ends this process and all others with one status: they would wait for it for ever.

    Threads of libraries that do not end, such as those that wait for a disk, end with the process after `END_S`.
    """
    global _failed
    _failed = status
    if process_count() > 1:
        exit_process(status, f"process {describe(process_index())}: {reason}")
    if "jax" in sys.modules and _state().client:  # of no run: at its exit JAX would print that it cannot disconnect
        exit_process(status)
    timer = threading.Timer(END_S, os._exit, (status,))
    timer.daemon = True  # runs while Python waits for other threads
    with contextlib.suppress(RuntimeError):  # this user may have no more threads
        timer.start()
    raise SystemExit(status)


def skip_teardown_after_errors() -> None:
    """Called before libraries are imported, whose handlers then run first. No timer ends what hangs in a teardown."""
    atexit.register(lambda: None if _failed is None else exit_process(_failed))


def exit_process(status: int, reason: str = "", without: Collection[int] = ()) -> NoReturn:
    """Ends this process at once, from any thread; the coordinator waits until the others have exited.

    Args:
      status: of the process.
      reason: of a failure, for the other processes, which then end too; empty where they end by themselves.
      without: processes that do not answer, for which nobody waits.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if client() and 0 not in without:
        telling = threading.Thread(target=_tell_exit, args=(status, reason, set(without)), daemon=True)
        telling.start()
        telling.join(EXIT_TIMEOUT_S + 2 * GRACE_S if is_main() else ANSWER_TIMEOUT_S)
    os._exit(status)


def _tell_exit(status: int, reason: str, without: set[int]) -> None:
    with contextlib.suppress(Exception):  # the process ends even if the service fails
        if reason:
            client().key_value_set(f"{KEYS}/failed/{process_index()}", f"{status} {reason}")
        client().key_value_set(f"{KEYS}/exited/{process_index()}", "", allow_overwrite=True)
        expected, deadline = set(map(str, set(range(process_count())) - without)), time.monotonic() + EXIT_TIMEOUT_S
        while is_main() and expected - posted_values(f"{KEYS}/exited").keys() and time.monotonic() < deadline:
            time.sleep(0.05)
        if is_main() and process_count() > 1:
            time.sleep(GRACE_S)


def _exit_with_another(failure: str) -> None:
    """Called by a thread when another process has posted why it failed."""
    status, _, reason = failure.partition(" ")
    print(f"error: {reason}; this process ends with it", file=sys.stderr)
    exit_process(int(status))


def _exit_without(process: int, seconds: float, reason: str = "") -> NoReturn:
    """Ends the run because a process is silent: it was killed or stopped, or its host is gone."""
    text = f"process {describe(process)} has been silent for {seconds:.0f} s{reason}"
    print(f"error: {text}; {HOW_TO_GO_ON}", file=sys.stderr)
    exit_process(1, text, without=[process])


def _exit_without_service() -> NoReturn:
    """Ends a process that lost the service: process 0 is gone, or the service has found the run to be broken."""
    if _others is not None and not _joined:
        _end_connected()
    if coordinator_address.answers(_state().coordinator_address):
        reason = "the run was broken up: a process of it was started a second time"
    else:
        reason = f"process {describe(0)} has ended without a message, or its host cannot be reached"
    print(f"error: {reason}; {HOW_TO_GO_ON}", file=sys.stderr, flush=True)
    os._exit(1)


def exit_if_another_is_gone(error: Exception) -> None:
    """Ends this process if what failed is its communication with one that was killed; else returns after seconds."""
    if _others is None or not client():
        return
    import jax

    if not isinstance(error, jax.errors.JaxRuntimeError) and "Gloo" not in str(error):  # Gloo: among CPUs
        return
    deadline = time.monotonic() + GONE_S + 4 * SIGN_S
    while time.monotonic() < deadline:
        process, seconds = _others.longest_silent()
        if seconds > GONE_S:
            _exit_without(process, seconds, f", and a communication has failed ({str(error).splitlines()[0]})")
        time.sleep(SIGN_S / 4)
