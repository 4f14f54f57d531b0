"""Errors of the system that a user can correct, and that no code has explained where they were raised."""

import errno

from beit_jax.errors import UserError

RIGHTS = "choose another path, or give this user the right to read or write it"
SPACE = "free some space, and run the same command again"
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


def explain(error: OSError | RuntimeError) -> UserError | None:
    """What to tell a user in place of an error of the system; None if it is none that a user can correct."""
    if isinstance(error, OSError) and error.errno in ADVICE:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return UserError(": ".join([*names, f"{error.strerror}; {ADVICE[error.errno]}"]))
    for beginning, advice in ADVICE_BY_MESSAGE.items():
        if str(error).startswith(beginning):
            return UserError(f"{beginning[0].lower()}{beginning[1:].rstrip('.')}; {advice}")
    return None
