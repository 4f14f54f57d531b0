"""Image files in formats that are not read: how many a folder holds, and what to tell of them."""

import collections
import functools
import logging
import os
from collections.abc import Iterable, Sized
from pathlib import Path

from beit_jax.errors import UserError

EXTENSIONS = (
    ".tif",
    ".tiff",
    ".heic",
    ".heif",
    ".avif",
    ".svg",
    ".ico",
    ".jp2",
    ".jxl",
    ".psd",
    ".dng",
    ".cr2",
    ".nef",
)


def count_ignored(names: Iterable[str], ignored: collections.Counter) -> None:
    """Counts the files with extensions of other formats, by extension."""
    others = (os.path.splitext(name)[1].lower() for name in names if name.lower().endswith(EXTENSIONS))
    ignored.update(others)


def check_found(images: Sized, ignored: collections.Counter, folder: Path, expected: str) -> None:
    """Says how many images of other formats were ignored.

    Args:
      images: what was found.
      ignored: from `count_ignored`.
      folder: that holds them.
      expected: files, for the message.

    Raises:
      UserError: no image was found that can be read.
    """
    others = ", ".join(f"{count:,} {extension}" for extension, count in ignored.most_common())
    if not images:
        advice = f" that can be read ({others} are not: convert them to PNG or JPEG)" if others else ""
        raise UserError(f"{folder} holds no images{advice}; expected {expected}")
    if others:
        _warn_of_ignored(folder, ignored.total(), others)


@functools.cache  # one warning, however often a run lists the folder
def _warn_of_ignored(folder: Path, count: int, others: str) -> None:
    message = "ignored %s of %s in formats that are not read: %s; convert them to PNG or JPEG to use them"
    logging.getLogger("beit_jax").warning(message, "1 file" if count == 1 else f"{count:,} files", folder, others)
