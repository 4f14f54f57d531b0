"""Paths that XLA, TensorFlow and Orbax can take."""

import os

from beit_jax.errors import UserError


def check_encoding(prefix: str, path: str | os.PathLike) -> None:
    """
    Args:
      prefix: what the message begins with, such as "--out=".
      path: of a folder in which libraries read or write.

    Raises:
      UserError: the path, or that of the folder it starts from, is not written in UTF-8.
    """
    full = os.path.abspath(path)
    try:
        full.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{prefix}{path}: the path {full} is not written in UTF-8, as libraries expect; rename the folder, or "
            "choose another"
        ) from error
