"""Tokens of a pre-training's images, computed once and read by every run over the same stream of batches.

A folder holds `key.json`, all that the tokens depend on, and files `tokens-START-STOP.npy` of the steps from START to
before STOP: `[steps, batch]` of `tokens`, uint16 `[g * g]` of all patches, and `level`, float32, by which the image is
known again. Files have their names only when they are whole and on the disk.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beit_jax.data.records import shard_plan
from beit_jax.errors import UserError

KEY = "key.json"
FILE_STEPS = 100  # steps of a file: what a kill loses at most
LARGEST_VOCAB = 2**16
TOLERANCE = 0.01  # of levels, which differ where processors round differently
_NAME = re.compile(r"tokens-(\d{9})-(\d{9})\.npy")


def level(images: np.ndarray) -> np.ndarray:
    """The mean of the row of pixels in the middle, float32 `[b]`, of images `[b, h, w, c]`."""
    return images[:, images.shape[1] // 2].mean(axis=(1, 2), dtype=np.float32)


class StoredTokens:
    """The tokens in a folder.

    Args:
      folder: with the files.
      grid: patches along a side of an image.
      batch_size: images of a step, over all processes.
    """

    def __init__(self, folder: Path, grid: int, batch_size: int):
        self.folder, self.grid, self.batch_size = folder, grid, batch_size
        self.row = np.dtype([("tokens", "<u2", (grid * grid,)), ("level", "<f4")])  # what is stored of an image

    def claim(self, key: Mapping[str, Any]) -> None:
        """Makes the folder with its key, or finds the same key there.

        Raises:
          UserError: there are tokens of something else, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / KEY).exists():
                with shard_plan.whole(self.folder / KEY) as part:
                    part.write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {self.folder}: {error.strerror or error}; choose another --out") from error
        self.compare(key)

    def compare(self, key: Mapping[str, Any]) -> None:
        """
        Raises:
          UserError: something in the key is another than that of the tokens, or there are no tokens.
        """
        try:
            there = dict(json.loads((self.folder / KEY).read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise UserError(f"there are no tokens in {self.folder}; {_make(self.folder)}") from error
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{self.folder / KEY} cannot be read ({error}); delete {self.folder}, and {_make(self.folder)}"
            ) from error
        differing = [name for name, value in key.items() if there.get(name) != value]
        if differing:
            name = differing[0]
            more = f" (and {len(differing) - 1} more differ)" if len(differing) > 1 else ""
            raise UserError(
                f"the tokens in {self.folder} are of another stream or tokenizer: {name} is {there.get(name)!r} there "
                f"and {key[name]!r} now{more}; take what they were made with, or make others in another folder"
            )

    def check(self, steps: int) -> None:
        """
        Raises:
          UserError: fewer steps are there.
        """
        missing = self.missing(self.parts(steps))
        if missing:
            there = self.found().get(missing[0][0], missing[0][0])
            raise UserError(
                f"{self.folder} holds the tokens of {there:,} steps from the first one on, expected the {steps:,} of "
                f"the run; {_make(self.folder)}"
            )

    def found(self) -> dict[int, int]:
        """Where each file ends, by the step that it starts with; of two with the same start, the longer one."""
        names = sorted(path.name for path in self.folder.iterdir())
        return {int(match[1]): int(match[2]) for match in map(_NAME.fullmatch, names) if match}

    def parts(self, steps: int) -> list[tuple[int, int]]:
        """The steps of each file of a run of so many: its first one, and the one after its last."""
        return [(start, min(start + FILE_STEPS, steps)) for start in range(0, steps, FILE_STEPS)]

    def missing(self, parts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of `parts` that are not there, or not to their end."""
        found = self.found()
        return [(start, stop) for start, stop in parts if found.get(start, 0) < stop]

    def file(self, start: int, stop: int) -> Path:
        """The file of the tokens of these steps."""
        return self.folder / f"tokens-{start:09d}-{stop:09d}.npy"

    def write(self, start: int, rows: np.ndarray) -> None:
        """Stores the tokens of the steps from `start` on, `[steps, batch]` of `row`.

        Raises:
          UserError: they cannot be written.
        """
        file = self.file(start, start + len(rows))
        try:
            for left in self.folder.glob(f"{file.name}{shard_plan.PART}*"):  # by a process that was killed
                left.unlink(missing_ok=True)
            with shard_plan.whole(file) as part, part.open("wb") as stream:
                np.save(stream, rows, allow_pickle=False)
            for shorter in self.folder.glob(f"tokens-{start:09d}-*.npy"):
                if shorter != file:
                    shorter.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write {file}: {error.strerror or error}; finished files stay: make room or see to the disk, "
                "and run the same command again"
            ) from error

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens of a file, `[steps, batch]`, which stay on the disk.

        Raises:
          UserError: the file is damaged or gone.
        """
        file, expected = self.file(start, stop), (stop - start, self.batch_size)
        try:
            rows = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{file} cannot be read ({error}); delete it, and {_make(self.folder)}") from error
        if rows.shape != expected or rows.dtype != self.row:
            raise UserError(
                f"{file} holds {rows.dtype} {list(rows.shape)}, expected {self.row} {list(expected)}; delete it, "
                f"and {_make(self.folder)}"
            )
        return rows

    def reader(self, step: int, first: int) -> "Reader":
        """For the batches from a step on, of the process whose rows begin with `first`."""
        return Reader(self, step, first)


class Reader:
    """Gives each batch of a stream its tokens; see `StoredTokens.reader`."""

    def __init__(self, stored: StoredTokens, step: int, first: int):
        self._stored, self._step, self._first = stored, step, first
        self._start, self._rows = 0, np.empty((0, 0))

    def __call__(self, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
        """The tokens int32 `[b, g, g]` of the next batch.

        Args:
          rows: int `[b]`, the row of the batch, among those of this process, that each image is from.
          images: float32 `[b, h, w, c]`.

        Raises:
          UserError: no tokens of this step are there, or they are those of other images.
        """
        stored, step = self._stored, self._step
        if not self._start <= step < self._start + len(self._rows):
            self._start = step // FILE_STEPS * FILE_STEPS
            stop = stored.found().get(self._start, 0)
            if stop <= step:
                raise UserError(f"{stored.folder} holds no tokens of step {step:,}; {_make(stored.folder)}")
            self._rows = stored.read(self._start, stop)
        found = self._rows[step - self._start][self._first + rows]
        wrong = np.flatnonzero(~(np.abs(found["level"] - level(images)) <= TOLERANCE))
        if len(wrong):
            raise UserError(
                f"the tokens of step {step:,} in {stored.folder} were made of other images ({len(wrong)} of the "
                f"{len(rows)} here): the files or the library that decodes them have changed, or images that could not "
                "be read then can be now; make the tokens anew in another folder"
            )
        self._step += 1
        return found["tokens"].astype(np.int32).reshape(len(rows), stored.grid, stored.grid)


def _make(folder: Path) -> str:
    return f"run python -m beit_jax.tokenize_dataset with the config of this run and --out {folder}"
