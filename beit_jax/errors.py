"""Mistakes that a user can correct, and how they are told: all at once, each in one line."""

import contextlib
import difflib
import unicodedata
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """Says what was found, what was expected and what to do; commands print it without a stack trace.

    `UserError(line)` is one mistake, `UserError(line, line, ...)` are several, which a command lists together.

    Examples:
      >>> from beit_jax.errors import UserError
      >>> try:
      ...     beit_jax.from_pretrained("runs/nothing")
      ... except UserError as error:
      ...     print(len(error.lines))
      1
    """

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each mistake; the names of files in it cannot command a terminal."""
        return tuple("\n".join(map(printable, str(line).split("\n"))) for line in self.args)

    def __str__(self) -> str:
        if len(self.args) < 2:
            return "".join(self.lines)
        return "\n  ".join((f"{len(self.args)} things are wrong:", *self.lines))


def printable(text: str) -> str:
    """Text without control characters, which a terminal would obey, and bytes that are no text: shown as `\\xNN`."""
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":  # spaces of all kinds
        return character
    byte = ord(character) - 0xDC00  # of what Python makes of bytes of file names that are not UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode()


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
