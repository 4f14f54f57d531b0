"""Files of lines that grow at their end, such as `metrics.jsonl`."""

from pathlib import Path

from beit_jax.runtime.growing_object import GrowingObject
from beit_jax.runtime.optional_writes import OptionalWrites
from beit_jax.runtime.urls import is_bucket


class LineFile:
    """A file of lines that grows at its end. Lines that cannot be written yet are kept, and written before the next."""

    def __init__(self, path: Path):
        """
        Args:
          path: on a disk, where each line is in the file at once, or in a bucket, see `growing_object`.
        """
        self._path, self._pending, self._writes = path, [], OptionalWrites(str(path))
        self._object = GrowingObject(path) if is_bucket(path) else None

    def append(self, line: str) -> None:
        """Adds a line, given without its end."""
        if self._object is not None:
            return self._object.write(f"{line}\n".encode())
        self._pending.append(line)
        self._writes.attempt(self._write)

    def flush(self) -> None:
        """Waits until every line is written, or cannot be written now."""
        if self._object is not None:
            self._object.flush()

    def close(self) -> None:
        """Tries once more to write what is pending."""
        if self._object is not None:
            self._object.close()
        if self._pending:
            self._writes.attempt(self._write)

    def _write(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            size = file.tell()
            data = "".join(f"{line}\n" for line in self._pending).encode()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(size)  # no line is written by halves
                raise
        self._pending.clear()
