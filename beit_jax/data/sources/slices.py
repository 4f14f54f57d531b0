"""Splits and slices of them, such as `train[:90%]`, of files in an order that depends on their names alone."""

import hashlib
import re
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

from beit_jax.data.sources.names import relative_name
from beit_jax.errors import UserError

SPLIT = re.compile(r"(?P<name>\w+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


class Slice(NamedTuple):
    """A split, and the bounds of a slice of it, or None."""

    text: str
    name: str
    start: str | None
    stop: str | None

    def of(self, files: list) -> list:
        """This slice of the files of the split.

        Raises:
          UserError: it has none.
        """
        first, end = _bound(self.start, 0, len(files)), _bound(self.stop, len(files), len(files))
        if not 0 <= first < end <= len(files):
            raise UserError(
                f"the split '{self.text}' asks for images {first} to {end} of {len(files)}, expected at least one; "
                "change its bounds"
            )
        return files[first:end]


def parse_split(split: str) -> Slice:
    """
    Raises:
      UserError: the text is no split.
    """
    match = SPLIT.fullmatch(split)
    if not match:
        raise UserError(f"found the split '{split}'; expected a name with or without a slice, such as train[:90%]")
    return Slice(split, match["name"], match["start"], match["stop"])


def mix(files: list[tuple[str, Any]], folder: Path) -> list[tuple[str, Any]]:
    """Files, each with its path first, in the order of a hash of their names relative to a folder.

    The form of Unicode does not count: a copy of the folder on another system has the same order.
    """

    def position(item: tuple[str, Any]) -> tuple[bytes, str]:
        name = relative_name(item[0], folder)
        normal = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(normal, digest_size=16).digest(), name

    return sorted(files, key=position)


def _bound(text: str | None, default: int, size: int) -> int:
    if text is None:
        return default
    value = round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
    return value + size if text.startswith("-") else value
