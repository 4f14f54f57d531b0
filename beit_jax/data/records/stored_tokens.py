"""Tokens of the images of a pre-training, computed once and read by every run over the same stream of batches.

A folder has `key.json`, all that the tokens depend on, and files `tokens-START-STOP.npy` for the steps from START to
before STOP. They are arrays `[steps, batch]` of `tokens`, uint16 `[g * g]` for all patches, `level`, float32, by which
the image is recognized, and `checksum`, uint32, of both and of `key.json`: changed bytes are noticed, and files copied
from tokens with another key. A file gets its name when it is complete and on the disk.
"""

import functools
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import PART, atomic_write, write_text
from beit_jax.runtime.urls import is_bucket

KEY = "key.json"
FILE_STEPS = 100  # steps of a file; a kill loses at most so many
LARGEST_VOCAB = 2**16
TOLERANCE = 0.01  # in levels, which differ where processors round differently
HEADER, ALIGNED = 4096, 64  # bytes that the header of a file has at most, and of which it has a multiple
_NAME = re.compile(r"tokens-(\d{9})-(\d{9})\.npy")


def mean_level(images: np.ndarray) -> np.ndarray:
    """The mean of the middle row of pixels, float32 `[b]`, of images `[b, h, w, c]`."""
    return images[:, images.shape[1] // 2].mean(axis=(1, 2), dtype=np.float32)


def check_folder(folder: Path) -> None:
    """
    Raises:
      UserError: there are no tokens in a folder.
    """
    if not (folder / KEY).exists():
        raise UserError(f"there are no tokens in {folder}; {_advice(folder)}")


class StoredTokens:
    """The tokens in a folder.

    Args:
      folder: the folder of the files.
      grid: rows and columns of patches.
      batch_size: images of a step, over all processes.
    """

    def __init__(self, folder: Path, grid: tuple[int, int], batch_size: int):
        self.folder, self.grid, self.batch_size = folder, grid, batch_size
        # What is stored for an image.
        self.row = np.dtype([("tokens", "<u2", (grid[0] * grid[1],)), ("level", "<f4"), ("checksum", "<u4")])

    def claim_folder(self, key: Mapping[str, Any]) -> None:
        """Makes the folder with its key, unless it is there with the same key.

        Raises:
          UserError: there are tokens of something else, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / KEY).exists():
                write_text(self.folder / KEY, json.dumps(key, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.folder}: {error.strerror or error}; choose another --out") from error
        self.check_key(key)

    def check_key(self, key: Mapping[str, Any]) -> None:
        """Compares a key, or a part of it, with that of the folder.

        Raises:
          UserError: a value differs from that of the tokens, or there are no tokens.
        """
        stored_key, key = self._read_key(), json.loads(json.dumps(key))  # JSON has no tuples
        differing = [name for name, value in key.items() if stored_key.get(name) != value]
        if differing:
            name = differing[0]
            more = f" (and {len(differing) - 1} more differ)" if len(differing) > 1 else ""
            raise UserError(
                f"the tokens in {self.folder} are of another stream or tokenizer: {name} is {stored_key.get(name)!r} "
                f"there and {key[name]!r} now{more}; use their settings, or compute tokens in another folder"
            )

    def _read_key(self) -> dict[str, Any]:
        check_folder(self.folder)
        try:
            return dict(json.loads((self.folder / KEY).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.folder / KEY} cannot be read ({error}); delete {self.folder}, and {_advice(self.folder)}"
            ) from error

    @functools.cached_property
    def _weights(self) -> np.ndarray:
        """Odd factors, uint32 `[g * g + 1]`, which depend on the key: one changed value changes a checksum."""
        key = json.dumps(self._read_key(), sort_keys=True).encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")
        factors = np.random.RandomState(seed).randint(2**31, size=self.grid[0] * self.grid[1] + 1, dtype=np.int64)
        return (2 * factors + 1).astype(np.uint32)

    def checksums(self, rows: np.ndarray) -> np.ndarray:
        """uint32 `[...]` of rows `[...]` of type `row`; never 0 for a row of zeros, as holes of a file are."""
        words = [rows["tokens"].astype(np.uint32) + np.uint32(1), rows["level"].view("<u4")[..., None]]
        return np.concatenate(words, axis=-1) @ self._weights

    def check_length(self, steps: int) -> None:
        """
        Raises:
          UserError: the folder has tokens for fewer steps, or a file has another size than it should have.
        """
        missing = self.missing_ranges(self.file_ranges(steps))
        if missing:
            complete = self.stored_ranges().get(missing[0][0], missing[0][0])
            raise UserError(
                f"{self.folder} has tokens for the first {complete:,} steps, expected the {steps:,} of the run; "
                f"{_advice(self.folder)}"
            )
        # Of a bucket, the list of objects tells all sizes.
        sizes = {name: facts["size"] for name, facts in self.folder.objects().items()} if is_bucket(self.folder) else {}
        for start, stop in self.stored_ranges().items():
            if start < steps:
                self._check_size(start, stop, sizes.get(self.path(start, stop).name))

    def _check_size(self, start: int, stop: int, found: int | None = None) -> None:
        path, expected = self.path(start, stop), (stop - start) * self.batch_size * self.row.itemsize
        try:
            found = path.stat().st_size if found is None else found
        except OSError as error:
            raise self._unreadable(path, error) from error
        if not expected < found <= expected + HEADER or (found - expected) % ALIGNED:
            raise self._unreadable(path, f"it has {found:,} bytes, expected {expected:,} and a header")

    def _unreadable(self, path: Path, reason: Any) -> UserError:
        return UserError(f"{path} cannot be read ({reason}); delete it, and {_advice(self.folder)}")

    def stored_ranges(self) -> dict[int, int]:
        """The end of each file by its first step; of two files with the same first step, the longer one.

        Raises:
          UserError: the folder cannot be read.
        """
        try:
            names = sorted(path.name for path in self.folder.iterdir())
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"the tokens in {self.folder} cannot be read ({reason}); restore them") from error
        return {int(match[1]): int(match[2]) for match in map(_NAME.fullmatch, names) if match}

    def file_ranges(self, steps: int) -> list[tuple[int, int]]:
        """The files of a run of `steps` steps: the first step of each file, and the end of its steps."""
        return [(start, min(start + FILE_STEPS, steps)) for start in range(0, steps, FILE_STEPS)]

    def missing_ranges(self, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of `ranges` that are not stored, or only in part."""
        stored = self.stored_ranges()
        return [(start, stop) for start, stop in ranges if stored.get(start, 0) < stop]

    def path(self, start: int, stop: int) -> Path:
        """The path of the file for these steps."""
        return self.folder / f"tokens-{start:09d}-{stop:09d}.npy"

    def write_steps(self, start: int, rows: np.ndarray) -> None:
        """Writes the file for the steps from `start` on: `rows` is `[steps, batch]` of type `row`, checksums aside.

        Raises:
          UserError: the file cannot be written.
        """
        path = self.path(start, start + len(rows))
        rows["checksum"] = self.checksums(rows)
        try:
            if not is_bucket(path):  # an object appears complete or not at all
                for part in self.folder.glob(f"{path.name}{PART}*"):  # of a process that was killed
                    part.unlink(missing_ok=True)
            with atomic_write(path) as part, part.open("wb") as stream:
                np.save(stream, rows, allow_pickle=False)
            for shorter in self.folder.glob(f"tokens-{start:09d}-*.npy"):
                if shorter != path:
                    shorter.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror or error}; finished files stay: free some space or check the "
                "disk, and run the same command again"
            ) from error

    def read_steps(self, start: int, stop: int) -> np.ndarray:
        """The contents of a file, `[steps, batch]` of type `row`.

        They are read as a whole: the kernel would kill a process that maps a file which is cut short meanwhile.

        Raises:
          UserError: the file is damaged or missing.
        """
        path, shape = self.path(start, stop), (stop - start, self.batch_size)
        content = path.read_bytes() if is_bucket(path) else None
        self._check_size(start, stop, content and len(content))
        try:
            rows = np.load(path if content is None else io.BytesIO(content), allow_pickle=False)
        except Exception as error:  # NumPy's parser of headers raises many kinds
            raise self._unreadable(path, error) from error
        if not isinstance(rows, np.ndarray) or rows.shape != shape or rows.dtype != self.row:
            found = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, np.ndarray) else type(rows).__name__
            raise UserError(
                f"{path} holds {found}, expected {self.row} {list(shape)}; delete it, and {_advice(self.folder)}"
            )
        return rows

    def reader(self, step: int, first_row: int) -> "TokenReader":
        """A reader of the batches from a step on, for the process whose rows of each batch start at `first_row`."""
        return TokenReader(self, step, first_row)


class TokenReader:
    """Returns the tokens of one batch of a stream after another; see `StoredTokens.reader`."""

    def __init__(self, stored: StoredTokens, step: int, first_row: int):
        self._stored, self._step, self._first_row = stored, step, first_row
        self._start, self._file = 0, np.empty((0, 0))

    def __call__(self, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
        """The tokens int32 `[b, g, g]` of the next batch.

        Args:
          rows: int `[b]`, the row of this process's batch that each image was read for.
          images: float32 `[b, h, w, c]`.

        Raises:
          UserError: the tokens of this step are missing, or are those of other images.
        """
        stored, step = self._stored, self._step
        if not self._start <= step < self._start + len(self._file):
            self._start = step // FILE_STEPS * FILE_STEPS
            stop = stored.stored_ranges().get(self._start, 0)
            if stop <= step:
                raise UserError(f"{stored.folder} has no tokens for step {step:,}; {_advice(stored.folder)}")
            self._file = stored.read_steps(self._start, stop)
        batch = self._file[step - self._start][self._first_row + rows]
        if not np.array_equal(stored.checksums(batch), batch["checksum"]):
            path = stored.path(self._start, self._start + len(self._file))
            raise UserError(
                f"{path} is damaged at step {step:,}, or was written for another {KEY} than the one beside it; delete "
                f"it, and {_advice(stored.folder)}"
            )
        wrong = np.flatnonzero(~(np.abs(batch["level"] - mean_level(images)) <= TOLERANCE))
        if len(wrong):
            raise UserError(
                f"the tokens of step {step:,} in {stored.folder} were computed for other images ({len(wrong)} of the "
                f"{len(rows)} here differ): the files or the library that decodes them have changed, or images that "
                "could not be read then can be read now; compute the tokens again in another folder"
            )
        self._step += 1
        return batch["tokens"].astype(np.int32).reshape(len(rows), *stored.grid)


def _advice(folder: Path) -> str:
    return f"run python -m beit_jax.tokenize_dataset with the config of this run and --out {folder}"
