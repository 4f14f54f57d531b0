"""The account of images that could not be read: counted, named once, and too many of them end the input."""

import logging
import math
from pathlib import Path

from beit_jax.errors import UserError

NAMED = 5
CHANCE = 4  # standard deviations


class Unreadable:
    """How many of the images seen so far were unreadable.

    Args:
      max_fraction: the share of unreadable images that is put up with.
      file: where their names are kept, one line each, "NAME<tab>WHY": also those of earlier runs and other accounts.
        None: nowhere.
    """

    def __init__(self, max_fraction: float, file: Path | None = None):
        self.max_fraction = max_fraction
        self.seen = 0
        self.count = 0
        self.names: dict[str, None] = {}  # in the order they were met
        self._file, self._in_file, self._size = file, set(), 0

    def restart(self) -> None:
        """Begins to count anew, as for another pass over the same images."""
        self.seen = self.count = 0

    def add(self, seen: int, names: list[bytes], faults: list[bytes]) -> None:
        """Takes in a batch of `seen` images, and name and fault of the unreadable ones; warns once of each.

        Raises UserError when the file cannot be written.
        """
        self.seen += seen
        self.count += len(names)
        new = []
        for name, fault in zip(map(_text, names), map(_text, faults), strict=True):
            if name not in self.names:
                self.names[name] = None
                new.append((name, fault))
                message = "cannot read the image %s: %s (%d unreadable so far%s); another one takes its place"
                arguments = name, fault, len(self.names), self._where(", named in ")
                logging.getLogger("beit_jax").warning(message, *arguments)
        if new and self._file:
            try:
                self._append(self._file, new)
            except OSError as error:
                raise UserError(f"cannot name unreadable images: {error}; make room or give back the right") from error

    def _append(self, file: Path, found: list[tuple[str, str]]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+b") as stream:
            # What another account of this process, or a run before this one, has added.
            stream.seek(self._size)
            added = stream.read()
            self._in_file.update(line.partition(b"\t")[0] for line in added.split(b"\n"))
            lines = {name.encode(): fault.encode() for name, fault in found if name.encode() not in self._in_file}
            cut_short = b"\n" if added and not added.endswith(b"\n") else b""
            # In one piece: a killed process leaves whole lines.
            stream.write(cut_short + b"".join(b"%s\t%s\n" % line for line in lines.items()))
            self._in_file.update(lines)
            self._size = stream.tell()

    def check(self, whole: bool = False) -> None:
        """Raises UserError when more than the share put up with was unreadable.

        Of a sample, unless `whole`, more than is likely by chance: one bad image among the first ten is no tenth.
        """
        expected = self.max_fraction * self.seen
        if self.count > expected + (0 if whole else CHANCE * math.sqrt(expected)):
            names = ", ".join(list(self.names)[:NAMED]) + (", ..." if len(self.names) > NAMED else "")
            raise UserError(
                f"{self.count} of the {self.seen} images seen cannot be read ({names}{self._where('; all in ')}), "
                f"expected at most a share of {self.max_fraction:g}; repair or remove them, or raise max_bad_fraction"
            )

    def _where(self, words: str) -> str:
        return f"{words}{self._file}" if self._file else ""


def _text(raw: bytes) -> str:
    """One line, and other text for other bytes."""
    return raw.decode("utf-8", "backslashreplace").replace("\n", "\\n").replace("\t", "\\t")
