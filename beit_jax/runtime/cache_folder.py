"""The folder for what can be made again from the data: it may be deleted at any time."""

import os
from pathlib import Path

VARIABLE = "BEIT_JAX_CACHE"


def cache_folder() -> Path:
    """What the environment variable names, or else `beit_jax` in the user's folder of caches; it need not exist."""
    named = os.environ.get(VARIABLE) or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "beit_jax")
    return Path(os.path.expanduser(named))  # which stays as it is where there is no home folder
