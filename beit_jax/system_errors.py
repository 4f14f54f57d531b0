"""Errors of the system that a user can correct, and that no code has explained where they were raised."""

import errno
import os

from beit_jax.errors import UserError

RIGHTS = "choose another path, or give this user the right to read or write it"
SPACE = "free some space, and run the same command again"
SHOWN = 300  # characters of a library's message
FILES = "raise the limit of open files (ulimit -n), and run the same command again"
ADVICE = {
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
    errno.EROFS: "choose another path",
    errno.ENOSPC: SPACE,
    errno.EDQUOT: SPACE,
    errno.EFBIG: "raise the limit of the size of a file (ulimit -f), and run the same command again",
    errno.EMFILE: FILES,
    errno.ENFILE: FILES,
    errno.EIO: "check the disk, and run the same command again",
    errno.ESTALE: "check the network file system, and run the same command again",
    errno.ENAMETOOLONG: "choose a shorter path",
}
ADVICE_BY_MESSAGE = {  # of a RuntimeError, by how it begins
    "Could not determine home directory.": "set the environment variable HOME, or write a path without ~",
    "can't start new thread": "raise the limit of processes and threads (ulimit -u), or that of memory (ulimit -v)",
}


def explain(error: Exception) -> UserError | None:
    """What to tell a user in place of an error of the system; None if it is none that a user can correct."""
    number = _number_of(error)
    if number is not None:
        own = [error.filename, error.filename2] if isinstance(error, OSError) else [str(error).splitlines()[0][:SHOWN]]
        return UserError(": ".join([*(str(name) for name in own if name), f"{os.strerror(number)}; {ADVICE[number]}"]))
    for beginning, advice in ADVICE_BY_MESSAGE.items():
        if str(error).startswith(beginning):
            return UserError(f"{beginning[0].lower()}{beginning[1:].rstrip('.')}; {advice}")
    return None


def reason_of(error: Exception) -> str:
    """What the system said, for an `OSError` or an error of a library; empty where it is about something else."""
    number = _number_of(error)
    return str(error) if isinstance(error, OSError) else os.strerror(number) if number is not None else ""


def _number_of(error: Exception) -> int | None:
    """The number of an error that has advice. Libraries in C++ and Rust raise other types, with the system's words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in ADVICE else None
    return next((number for number in ADVICE if os.strerror(number) in str(error)), None)
