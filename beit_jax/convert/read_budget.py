"""What reading a file that nobody trusts may cost: for every part of the reader, it follows from the file's size."""

from beit_jax.errors import printable


class UnreadableError(Exception):
    """A file is not what it should be; the message says how, in one line."""


class ScriptError(Exception):
    """The file is an archive of TorchScript: a program, with weights in it."""


class UnknownKindError(Exception):
    """A file holds tensors of a kind that is not read here; the message names it."""


class Budget:
    """Steps and bytes that a file may still cost.

    A step makes one small object, of at most some 250 bytes. A model needs few: about 40 per tensor, most of which hold
    thousands of numbers. Bytes are those of arrays, and of text that is copied. Arrays need at most twice the bytes of
    the file, where they are stored in half precision; the rest is room for tensors that share their values.
    """

    def __init__(self, file_bytes: int):
        """
        Args:
          file_bytes: size of the file.
        """
        self._size = file_bytes
        self._steps = 500_000 + file_bytes // 64
        self._bytes = (64 << 20) + 4 * file_bytes

    def spend(self, steps: int = 0, size: int = 0) -> None:
        """Takes steps and bytes, before they are used.

        Raises:
          UnreadableError: more than there are left.
        """
        self._steps -= steps
        self._bytes -= size
        if self._steps < 0 or self._bytes < 0:
            what = "steps" if self._steps < 0 else "memory"
            raise UnreadableError(f"it asks for more {what} than a model in a file of {self._size:,} bytes needs")


def excerpt(text: str, longest: int = 200) -> str:
    """Text of a file for a message: one line, without control characters, not too long."""
    return printable(text[:longest])
