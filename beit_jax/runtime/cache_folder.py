"""The folder for what can be made again from the data: it may be deleted at any time."""

import os
import shutil
from pathlib import Path

from beit_jax.errors import UserError

VARIABLE = "BEIT_JAX_CACHE"
SIZE_VARIABLE = "BEIT_JAX_CACHE_GB"  # for copies of files of buckets, the part of the cache that is kept small


def cache_folder() -> Path:
    """What the environment variable names, or else `beit_jax` in the user's folder of caches; it need not exist."""
    named = os.environ.get(VARIABLE) or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "beit_jax")
    return Path(os.path.expanduser(named))  # which stays as it is where there is no home folder


def size_limit(used: int) -> int:
    """Bytes that copies of files of buckets may take: what the environment says, or half of what the disk has for them.

    Args:
      used: bytes of those that are there.

    Raises:
      UserError: the environment variable is no number.
    """
    text = os.environ.get(SIZE_VARIABLE)
    try:
        limit = float(text) * 1e9 if text else (shutil.disk_usage(cache_folder()).free + used) / 2
    except ValueError:
        limit = -1
    if not 0 <= limit < 2**63:
        raise UserError(f"found {SIZE_VARIABLE}={text}; expected a number of GB, such as 200")
    return int(limit)
