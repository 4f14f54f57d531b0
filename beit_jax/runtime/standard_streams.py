"""Standard output and standard error of a command that may be closed, lose their reader, or go to a full disk.

What a command prints is no reason to lose hours of training. Where nobody reads it any more (`| head -1`, a terminal
that was closed), it is dropped. Where it cannot be written, the work is done first, and the command fails at its end.
"""

import errno
import io
import os
import sys
from typing import TextIO

from beit_jax.errors import UserError

READER_IS_GONE = (errno.EPIPE, errno.EIO)  # EIO: of a terminal


class _Descriptor(io.FileIO):
    """Drops what cannot be written; keeps the first reason, unless the reader is gone."""

    def __init__(self, number: int):
        super().__init__(number, "w", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in READER_IS_GONE:
                self.failure = self.failure or error
            return len(data)


def secure() -> None:
    """Makes `sys.stdout` and `sys.stderr` streams that never raise `OSError`; called before files are opened.

    The descriptor of a closed stream is opened again: the next file would get its number, and what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdout, sys.stderr = _secured(sys.stdout, 1), _secured(sys.stderr, 2)


def _secured(stream: TextIO | None, number: int) -> TextIO:
    """A stream in place of another one, None where that was closed. Names of files in it need not be UTF-8."""
    raw = _Descriptor(number)
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")
    by_line = stream.line_buffering or stream.write_through  # the latter with PYTHONUNBUFFERED
    settings = dict(encoding=stream.encoding, errors="backslashreplace", line_buffering=by_line)
    return io.TextIOWrapper(io.BufferedWriter(raw), **settings)


def check_output() -> None:
    """
    Raises:
      UserError: something that was printed to `sys.stdout`, which `secure` made, could not be written.
    """
    sys.stdout.flush()
    if failure := sys.stdout.buffer.raw.failure:
        raise UserError(
            f"standard output cannot be written: {failure.strerror}; everything else was done, and what was printed "
            "is lost: write to another file"
        )
