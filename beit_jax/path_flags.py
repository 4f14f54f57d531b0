"""Flags that name what a command reads or writes, checked before it spends time; imports no JAX."""

from pathlib import Path
from typing import Literal

from beit_jax.cli import local_folder
from beit_jax.errors import UserError
from beit_jax.runtime import bucket
from beit_jax.runtime.urls import is_bucket


def output(flag: str, path: str, kind: Literal["file", "folder"]) -> Path:
    """What a command will write, checked before it spends time; it may lie in a bucket.

    Raises:
      UserError: there is a folder in place of the file, or the reverse, or the bucket cannot be written; see
        `local_folder` too.
    """
    target = local_folder(flag, path)
    if is_bucket(target):
        bucket.check_access(f"--{flag}=", str(target), writes=True)
    if target.is_dir() if kind == "file" else target.is_file():
        found = "folder" if kind == "file" else "file"
        raise UserError(f"--{flag}={path} cannot be written: it is a {found}; expected a {kind}")
    return target


def input_folder(flag: str, path: str) -> Path:
    """As `local_folder`, for what a command reads: a bucket is asked whether it may be read.

    Raises:
      UserError: it may not, or see `local_folder`.
    """
    found = local_folder(flag, path)
    if is_bucket(found):
        bucket.check_access(f"--{flag}=", str(found), writes=False)
    return found
