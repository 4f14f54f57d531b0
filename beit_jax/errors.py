"""Mistakes that a user can correct, and how they are told: all at once, each in one line."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator

UNDECODED = re.compile("[\udc80-\udcff]")  # what Python makes of bytes of file names that are not UTF-8


class UserError(Exception):
    """Says what was found, what was expected and what to do; commands print it without a stack trace.

    `UserError(line)` is one mistake, `UserError(line, line, ...)` are several, which a command lists together.
    """

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each mistake; bytes of file names that are not UTF-8 are `\\xNN`, so that it can be printed."""
        return tuple(UNDECODED.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", str(arg)) for arg in self.args)

    def __str__(self) -> str:
        if len(self.args) < 2:
            return "".join(self.lines)
        return "\n  ".join((f"{len(self.args)} things are wrong:", *self.lines))


class Mistakes:
    """Collects mistakes, so that a user learns of all of them in one attempt."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        """Adds one mistake."""
        self._lines.append(line)

    @contextlib.contextmanager
    def collected(self, prefix: str = "") -> Iterator[None]:
        """Collects the mistakes of a `UserError` that its block raises, each with a prefix."""
        try:
            yield
        except UserError as error:
            self._lines += [prefix + line for line in error.lines]

    def __bool__(self) -> bool:
        return bool(self._lines)

    def raise_all(self) -> None:
        """
        Raises:
          UserError: with all mistakes, if there are any.
        """
        if self._lines:
            raise UserError(*dict.fromkeys(self._lines))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known name that is spelled most alike, if there is one."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""
