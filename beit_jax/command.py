"""Runs a command to its end: one line and an exit status for what a user, the system or another process did wrong."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import logging

from beit_jax.errors import UserError
from beit_jax.extras import missing_library
from beit_jax.runtime import membership, standard_streams
from beit_jax.system_errors import explain


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Calls `main(sys.argv[1:])`; a user's mistake becomes one line and exit status 2.

    That is a `UserError`, a library that is not installed, and what `system_errors` explains. If several processes are
    one run: when one fails, all end; a process that is done waits for the others.
    """
    # Libraries warn of what a user cannot change, and Orbax logs each error once for each of its threads; what matters
    # is raised too.
    logging.set_verbosity(logging.FATAL)
    sys.unraisablehook = _ignore_library_threads
    standard_streams.secure()
    membership.skip_teardown_after_errors()
    try:
        _check_current_folder()
        main(sys.argv[1:])
        standard_streams.check_output()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # whoever presses the keys again will not wait
        print("interrupted; run the same command again to continue", file=sys.stderr)
        membership.exit_all(130, "interrupted")
    except Exception as error:
        _fail(error)
    except SystemExit as end:
        if not end.code:
            membership.finish()
        raise
    membership.finish()


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder was removed; change to another one, and run the command there") from None


def _as_mistake(error: Exception) -> UserError | None:
    if isinstance(error, UserError):
        return error
    return missing_library(error) if isinstance(error, ModuleNotFoundError) else explain(error)


def _ignore_library_threads(unraisable: Any) -> None:
    """Prints what Python cannot raise, but not what comes from threads of libraries in C++, which name no object.

    When a checkpoint cannot be written, each of tensorstore's threads reports that nobody waits for it any more.
    """
    if unraisable.object is not None:
        sys.__unraisablehook__(unraisable)


def _fail(error: Exception) -> NoReturn:
    """Ends a command that raised an error: with one line for a user's mistake, else with a stack trace."""
    mistake = _as_mistake(error)
    membership.exit_if_another_is_gone(error)  # which may be why
    if mistake is None:
        traceback.print_exception(error)
        membership.exit_all(1, f"{type(error).__name__}: {error}".splitlines()[0])
    print(f"error: {mistake}", file=sys.stderr)
    membership.exit_all(2, str(mistake))
