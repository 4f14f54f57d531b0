"""The address of the coordination service, HOST:PORT: process 0 listens there, and all others connect to it."""

import errno
import os
import socket
import sys
import time
from collections.abc import Callable

from beit_jax.errors import UserError

RETRY_S = 0.2
TELL_S = 15.0  # after which a process says that it waits
ANSWER_TIMEOUT_S = 5.0
FREE_TIMEOUT_S = 30.0  # for an earlier process 0 to end


def parse(name: str, address: str) -> tuple[str, int]:
    """The host and the port of an address; IPv6 addresses stand in brackets.

    Args:
      name: of the variable, for messages.
      address: its value.

    Raises:
      UserError: it is something else.
    """
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in bare) != (bare != host) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"{name}={address!r}; expected HOST:PORT, with a port from 1 to 65535, such as 10.0.0.1:29500")
    return bare, int(port)


def wait_until_free(port: int) -> None:
    """Returns once no other program listens at a port of this host; gRPC would share it with another run's process 0.

    Raises:
      UserError: one still does after `FREE_TIMEOUT_S`.
    """

    def bind() -> None:
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            raise UserError(f"process 0 cannot listen at port {port}: {_reason(error)}; choose another port") from error

    _repeat(
        bind,
        FREE_TIMEOUT_S,
        f"port {port}, at which process 0 is to listen, is in use by another program, perhaps an earlier run",
        "end it, or choose another port",
    )


def wait_for_listener(name: str, host: str, port: int, timeout_s: float) -> None:
    """Returns once process 0 listens; says after `TELL_S` why this process waits.

    Raises:
      UserError: it does not in time.
    """
    _repeat(
        lambda: socket.create_connection((host, port), timeout=TELL_S).close(),
        timeout_s,
        f"process 0 cannot be reached at {name}={host}:{port}",
        "start process 0, or correct the address",
    )


def answers(address: str) -> bool:
    """Whether a coordination service answers: a process that was killed may listen on for a while."""
    try:
        with socket.create_connection(parse("coordinator", address), timeout=ANSWER_TIMEOUT_S) as connection:
            return bool(connection.recv(1))  # a gRPC server speaks first
    except OSError:
        return False


def _reason(error: OSError) -> str:
    """The system's words; Python adds to those of some errors. Errors of names have numbers below 0."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


def _repeat(attempt: Callable[[], None], timeout_s: float, problem: str, advice: str) -> None:
    start, told = time.monotonic(), False
    while True:
        try:
            return attempt()
        except OSError as error:
            waited, reason = time.monotonic() - start, _reason(error)
            if waited >= timeout_s:
                raise UserError(f"{problem} ({reason}) after {waited:.0f} s; {advice}") from error
            if not told and waited >= TELL_S:
                told = True
                print(f"waiting up to {timeout_s:g} s: {problem} ({reason})", file=sys.stderr, flush=True)
        time.sleep(RETRY_S)
