"""Images that are files, or parts of large files: where the bytes of each are."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedImages:
    """The bytes of image files.

    Attributes:
      files: paths.
      file: int32 `[n]`, the index of the file that holds each image.
      offsets: int64 `[n]`, of the first byte.
      sizes: int64 `[n]`, in bytes; -1: to the end of the file.
      name: returns the name of the image at a position, for messages.
      digest: returns what changes with the images.
    """

    files: tuple[str, ...]
    file: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    name: Callable[[int], str]
    digest: Callable[[], Any]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.file)

    def read(self, position: int) -> bytes:
        """The bytes of an image; no bytes, which are no image, if they cannot be read."""
        size = int(self.sizes[position])
        try:
            with open(self.files[self.file[position]], "rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, int(self.offsets[position])) if size >= 0 else file.readall()
        except OSError:
            return b""
        return data if size < 0 or len(data) == size else b""

    def read_some(self, most: int) -> Iterator[bytes]:
        """The bytes of some images, at most so many, spread evenly."""
        for position in range(0, self.count, max(-(-self.count // most), 1)):
            yield self.read(position)


def files_of(paths: Sequence[str], digest: Callable[[], Any] = tuple) -> EncodedImages:
    """Images that are files of their own."""
    count = len(paths)
    numbers, whole = np.arange(count, dtype=np.int32), np.full(count, -1, np.int64)
    return EncodedImages(tuple(paths), numbers, np.zeros(count, np.int64), whole, paths.__getitem__, digest)


def join_images(parts: list[EncodedImages], name: Callable[[int], str], digest: Callable[[], Any]) -> EncodedImages:
    """The images of several lists in one, in order."""
    starts = np.cumsum([0, *(len(part.files) for part in parts)])
    file = [part.file + start for part, start in zip(parts, starts, strict=False)]
    columns = [_join(file, np.int32)]
    columns += [_join([getattr(part, key) for part in parts], np.int64) for key in ("offsets", "sizes")]
    return EncodedImages(tuple(path for part in parts for path in part.files), *columns, name, digest)


def _join(columns: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(columns).astype(dtype) if columns else np.zeros(0, dtype)
