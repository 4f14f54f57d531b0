"""How this process becomes one of a run of several, and how it leaves it: finished, after an error, or alone."""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Collection
from typing import NoReturn

from beit_jax.errors import UserError
from beit_jax.runtime import cluster, coordinator_address, distributed, lost_service
from beit_jax.runtime.delayed import called_after
from beit_jax.runtime.sign_of_life import SIGN_S, Others

HOW_TO_GO_ON = "start all processes again to continue from the newest checkpoint"
NO_HEARTBEATS_S = 10 * 365 * 86400  # JAX's own limit of silence; `sign_of_life` has another one, and says more
DISCONNECT_TIMEOUT_S = 20  # for the others, once all have finished
END_S = 10.0  # between the error of a single process and its end, at most
GRACE_S = 1.0  # between a process's message that it exits and its exit
EXIT_TIMEOUT_S = 20  # for the others to learn of a failure, before the coordinator exits
ANSWER_TIMEOUT_S = 5  # of the coordinator, which may be what has failed
GONE_S = 8.0  # of silence, of a process with which a communication has failed

_alone = False  # whether this process only reads configs or compiles
_all_finished = False  # whether all processes have come to the end of the run
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
    import jax

    if _alone or distributed.joined or not (jax.distributed.is_initialized() or _initialize()):
        return
    distributed.joined = True
    if distributed.process_count() > 1:
        distributed.others = Others(
            distributed.client(), distributed.KEYS, distributed.process_index(), distributed.process_count()
        )
        distributed.others.watch(_exit_with_another, _exit_without)


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
        with called_after(coordinator_address.TELL_S, _tell, text), lost_service.reported_by(_exit_without_service):
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


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def finish() -> None:
    """Waits for the other processes and disconnects; otherwise the coordinator's exit would kill them."""
    global _all_finished
    if distributed.client():
        import jax

        sys.stdout.flush()
        distributed.barrier("end")  # until then this process answers the others
        _all_finished = True
        with called_after(DISCONNECT_TIMEOUT_S, _end_connected):
            if distributed.others:
                distributed.others.stop()  # waits for the answer of a process that may be stopped
            with distributed.joined_lock:
                distributed.joined = False
            jax.distributed.shutdown()


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
    if distributed.process_count() > 1:
        exit_process(status, f"process {distributed.describe(distributed.process_index())}: {reason}")
    if "jax" in sys.modules and distributed.state().client:
        exit_process(status)  # a client of no run: at its exit JAX would print that it cannot disconnect
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
    if distributed.client() and 0 not in without:
        telling = threading.Thread(target=_tell_exit, args=(status, reason, set(without)), daemon=True)
        telling.start()
        telling.join(EXIT_TIMEOUT_S + 2 * GRACE_S if distributed.is_main() else ANSWER_TIMEOUT_S)
    os._exit(status)


def _tell_exit(status: int, reason: str, without: set[int]) -> None:
    failed, exited = f"{distributed.KEYS}/failed", f"{distributed.KEYS}/exited"
    with contextlib.suppress(Exception):  # the process ends even if the service fails
        service, this = distributed.client(), distributed.process_index()
        if reason:
            service.key_value_set(f"{failed}/{this}", f"{status} {reason}")
        service.key_value_set(f"{exited}/{this}", "", allow_overwrite=True)
        if not distributed.is_main():
            return
        expected = {str(process) for process in range(distributed.process_count()) if process not in without}
        deadline = time.monotonic() + EXIT_TIMEOUT_S
        while expected - distributed.posted_values(exited).keys() and time.monotonic() < deadline:
            time.sleep(0.05)
        if distributed.process_count() > 1:
            time.sleep(GRACE_S)


def _exit_with_another(failure: str) -> None:
    """Called by a thread when another process has posted why it failed."""
    status, _, reason = failure.partition(" ")
    print(f"error: {reason}; this process ends with it", file=sys.stderr)
    exit_process(int(status))


def _exit_without(process: int, seconds: float, reason: str = "") -> NoReturn:
    """Ends the run because a process is silent: it was killed or stopped, or its host is gone."""
    if _all_finished:
        _end_connected()
    text = f"process {distributed.describe(process)} has been silent for {seconds:.0f} s{reason}"
    print(f"error: {text}; {HOW_TO_GO_ON}", file=sys.stderr)
    exit_process(1, text, without=[process])


def _exit_without_service() -> NoReturn:
    """Ends a process that lost the service: process 0 is gone, or the service has found the run to be broken."""
    if _all_finished:
        _end_connected()
    if coordinator_address.answers(distributed.state().coordinator_address):
        reason = (
            "the run was broken up: a process of it was started a second time, or the network to process "
            f"{distributed.describe(0)} failed for some seconds"
        )
    else:
        reason = f"process {distributed.describe(0)} has ended without a message, or its host cannot be reached"
    print(f"error: {reason}; {HOW_TO_GO_ON}", file=sys.stderr, flush=True)
    os._exit(1)


def exit_if_another_is_gone(error: Exception) -> None:
    """Ends this process if what failed is its communication with one that was killed; else returns after seconds."""
    if distributed.others is None or not distributed.client() or not (failed := _failed_communication(error)):
        return
    deadline = time.monotonic() + GONE_S + 4 * SIGN_S
    while time.monotonic() < deadline:
        process, seconds = distributed.others.longest_silent()
        if seconds > GONE_S:
            reason = str(failed).partition("\n")[0]
            _exit_without(process, seconds, f", and a communication has failed ({reason})")
        time.sleep(SIGN_S / 4)


def _failed_communication(error: BaseException | None) -> BaseException | None:
    """The one that failed between processes, of an error and those that it was raised from; None if none did."""
    import jax

    while error and not isinstance(error, jax.errors.JaxRuntimeError) and "Gloo" not in str(error):  # among CPUs
        error = error.__cause__ or error.__context__
    return error
