"""Counts and names images that cannot be read; too many of them stop the input."""

import logging
import math
from pathlib import Path

from beit_jax.errors import UserError, printable
from beit_jax.runtime.optional_writes import OptionalWrites
from beit_jax.runtime.urls import is_bucket

NAMED = 5  # images in an error message
DEVIATIONS = 4  # standard deviations that are tolerated above the expected number


class UnreadableImages:
    """How many of the images seen so far were unreadable.

    Args:
      max_fraction: the fraction of unreadable images that is tolerated.
      file: where their names are written, one line each, "NAME<tab>REASON"; it also holds names of earlier runs and of
        other streams. None: nowhere.
    """

    def __init__(self, max_fraction: float, file: Path | None = None):
        self.max_fraction = max_fraction
        self.seen = 0
        self.count = 0
        self.names: dict[str, str] = {}  # and their faults, in the order in which they were met
        self._file, self._in_file, self._size = file, set(), 0
        self._pending, self._writes = [], OptionalWrites(str(file))  # names that could not be written yet

    def restart(self) -> None:
        """Starts to count from 0 again, for another pass over the same images."""
        self.seen = self.count = 0

    def add(self, seen: int, names: list[bytes], faults: list[bytes]) -> None:
        """Counts a batch of `seen` images, with names and faults of the unreadable ones; warns once of each image."""
        self.seen += seen
        self.count += len(names)
        new = []
        for name, fault in zip(map(_text, names), map(_text, faults), strict=True):
            if name not in self.names:
                self.names[name] = fault
                new.append((name, fault))
                message = "cannot read the image %s: %s (%d unreadable so far%s); another image replaces it"
                arguments = name, fault, len(self.names), self._where(", listed in ")
                logging.getLogger("beit_jax").warning(message, *arguments)
        if new and self._file:
            file, pending = self._file, [*self._pending, *new]
            self._pending = [] if self._writes.attempt(lambda: self._append(file, pending)) else pending

    def _append(self, file: Path, new: list[tuple[str, str]]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if is_bucket(file):
            return self._replace(file, new)
        with file.open("a+b") as stream:
            # What another stream of this process, or a run before this one, has added.
            stream.seek(self._size)
            added = stream.read()
            self._in_file.update(line.partition(b"\t")[0] for line in added.split(b"\n"))
            lines = {name.encode(): fault.encode() for name, fault in new if name.encode() not in self._in_file}
            line_break = b"\n" if added and not added.endswith(b"\n") else b""  # after a line that was cut short
            # One call of write: a killed process leaves complete lines.
            stream.write(line_break + b"".join(b"%s\t%s\n" % line for line in lines.items()))
            self._in_file.update(lines)
            self._size = stream.tell()

    def _replace(self, file: Path, new: list[tuple[str, str]]) -> None:
        """As `_append`, in a bucket, where the whole file is written again: it is short, or few images are new."""
        lines = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
        known = {line.partition(b"\t")[0] for line in lines}
        added = [b"%s\t%s\n" % (name.encode(), fault.encode()) for name, fault in new if name.encode() not in known]
        if added:
            file.write_bytes(b"".join(lines + added))

    def check(self, is_sample: bool = True) -> None:
        """Raises UserError when the unreadable images exceed the fraction that is tolerated.

        In a sample they may exceed it by as much as chance explains: one bad image among the first ten is no tenth.
        """
        expected = self.max_fraction * self.seen
        if self.count > expected + (DEVIATIONS * math.sqrt(expected) if is_sample else 0):
            names = ", ".join(list(self.names)[:NAMED]) + (", ..." if len(self.names) > NAMED else "")
            first = next(iter(self.names.values()))
            raise UserError(
                f"{self.count} of the {self.seen} images seen cannot be read ({names}{self._where('; all in ')}; the "
                f"first: {first}), "
                f"expected at most a fraction of {self.max_fraction:g}; repair or remove them, or raise "
                "data.max_bad_fraction"
            )

    def _where(self, words: str) -> str:
        return f"{words}{self._file}" if self._file else ""


def _text(raw: bytes) -> str:
    """One line of text, different for different bytes."""
    return printable(raw.decode("utf-8", "backslashreplace"))
