"""What a process says when the coordination service ends it: one line, in place of a page of text and an abort.

JAX's client of the service calls a function when the connection is lost: by default one in C++ that prints a page and
aborts. It can be given one in Python, but jaxlib 0.10 cannot translate its argument, a C++ status: it throws
`std::bad_cast` in a thread where nobody catches it. The C++ library then calls the handler of uncaught exceptions,
which is ours. Connecting raises the exception in Python, where the default would end the process.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LIBRARIES = {"linux": "libstdc++.so.6", "darwin": "libc++.1.dylib"}
BAD_CAST = b"St8bad_cast"  # the name of `std::bad_cast` in the binary interface
_handlers: list[Any] = []  # C++ holds their address


@contextmanager
def reported_by(report: Callable[[], None]) -> Iterator[None]:
    """A client that is made in the block calls `report`, which must end the process, when the service is lost.

    Where the C++ library is another one, all stays as JAX has it.
    """
    from jax._src.lib import _jax  # `jax.distributed.initialize` passes no such function on

    make = _jax.get_distributed_runtime_client
    if _handle_uncaught(report):
        _jax.get_distributed_runtime_client = lambda *args, **kwargs: make(
            *args, missed_heartbeat_callback=lambda *_: report(), **kwargs
        )
    try:
        yield
    finally:
        _jax.get_distributed_runtime_client = make


def _handle_uncaught(report: Callable[[], None]) -> bool:
    """Installs the handler; returns whether it could."""
    try:
        library = ctypes.CDLL(LIBRARIES.get(sys.platform, ""))
        install, current_type = library._ZSt13set_terminatePFvvE, library.__cxa_current_exception_type
    except (OSError, AttributeError):
        return False
    handler_type = ctypes.CFUNCTYPE(None)
    install.argtypes, install.restype, current_type.restype = [handler_type], handler_type, ctypes.c_void_p
    before: list[Any] = []

    @handler_type
    def handler() -> None:
        # A `type_info` consists of two pointers: to its methods, and to its name.
        kind = current_type()
        if kind and ctypes.c_char_p.from_address(kind + ctypes.sizeof(ctypes.c_void_p)).value == BAD_CAST:
            report()
        before[0]()  # something else was thrown

    before.append(install(handler))
    _handlers.append(handler)
    return True
