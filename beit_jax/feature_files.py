"""Features on disk, in shards of a folder; they can be joined to one `.npz` file. All of it loads without pickle.

A folder has `key.json`, all that the features depend on, `classes.npy` where there are class folders, and for each
shard `features-00000.npy`, `names-00000.npy` and, with classes, `labels-00000.npy`. The features of a shard get their
name last: a shard is complete, or it is not there.
"""

import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import PART, atomic_write, write_text
from beit_jax.runtime.paths import local_path
from beit_jax.runtime.urls import is_bucket

KEY, CLASSES = "key.json", "classes"


class Described(NamedTuple):
    """Names of images and, where they have classes, their numbers."""

    names: Sequence[str]
    labels: Sequence[int] | None


class CutStream:
    """Batches of positions int `[b]`, in order, and features `[b, ...]`, from which parts are taken in order."""

    def __init__(self, batches: Iterable[tuple[np.ndarray, np.ndarray]]):
        self._batches = iter(batches)
        self._left: tuple[np.ndarray, np.ndarray] | None = None  # of the last batch

    def until(self, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What is left of the positions before `stop`."""
        while batch := self._left or next(self._batches, None):
            index, features = batch
            before = int(np.searchsorted(index, stop))
            self._left = (index[before:], features[before:]) if before < len(index) else None
            if before:
                yield index[:before], features[:before]
            if self._left:
                return


class FeatureFolder:
    """The shards of a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def claim(self, key: Mapping[str, Any], classes: Sequence[str] | None) -> None:
        """Makes the folder for features with this key, unless it is there with the same key.

        Args:
          key: all that the features depend on, as JSON has it.
          classes: their names; None: there are none.

        Raises:
          UserError: the folder has features with another key, or other files, or cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            there = self.folder.iterdir() if self.folder.is_dir() else ()  # a bucket has no empty folders
            found = sorted(path.name for path in there if PART not in path.name)
            if not found:
                write_text(self.folder / KEY, json.dumps(key, indent=1) + "\n")
            elif KEY not in found:
                raise UserError(f"{self.folder} holds {found[0]}, which is not of this command; choose another --out")
            self._compare(key)
            for part in self.folder.glob(f"*{PART}*"):  # of a process that was killed
                part.unlink(missing_ok=True)
            if classes is not None:
                _save(self.folder / f"{CLASSES}.npy", _texts(classes))
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written: {error.strerror or error}; choose another --out"
            ) from error

    def _compare(self, key: Mapping[str, Any]) -> None:
        try:
            stored = dict(json.loads((self.folder / KEY).read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{self.folder / KEY} cannot be read ({error}); delete {self.folder}") from error
        for name, value in key.items():
            if stored.get(name) != value:
                raise UserError(
                    f"{self.folder} has the features of another command: {name} is {stored.get(name)!r} there and "
                    f"{value!r} now; give the flags as before, delete {self.folder}, or choose another --out"
                )

    def path(self, what: str, shard: int) -> Path:
        """The file of `features`, `names` or `labels` of a shard."""
        return self.folder / f"{what}-{shard:05d}.npy"

    def rows(self, shard: int) -> int | None:
        """The number of images in a shard; None: it is not there.

        Raises:
          UserError: it cannot be read.
        """
        path = self.path("features", shard)
        if not path.exists():
            return None
        return _read_rows(path) if is_bucket(path) else len(_load(path))

    def write(
        self, shard: int, shape: tuple[int, ...], batches: Iterable[tuple[np.ndarray, np.ndarray]], images: Described
    ) -> int:
        """Writes a shard as its batches come; returns how many images it has.

        Args:
          shard: its number.
          shape: of the features of an image.
          batches: positions of images in the shard, int `[b]`, and their features, float32 `[b, *shape]`.
          images: of the shard, also those that no batch has.

        Raises:
          UserError: it cannot be written.
        """
        path, positions = self.path("features", shard), []
        try:
            with atomic_write(path) as part, part.open("w+b") as stream:
                _write_header(stream, (0, *shape))
                for index, features in batches:
                    stream.write(np.ascontiguousarray(features, np.float32).data)
                    positions += index.tolist()
                stream.seek(0)
                _write_header(stream, (len(positions), *shape))
                _save(self.path("names", shard), _texts([images.names[index] for index in positions]))
                if images.labels is not None:
                    labels = np.array([images.labels[index] for index in positions], np.int32)
                    _save(self.path("labels", shard), labels)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror or error}; complete shards stay: free some space or check "
                "the disk, and run the same command again"
            ) from error
        return len(positions)

    def join(self, out: Path, shards: int, *, labelled: bool) -> None:
        """Writes all shards as one `.npz` file, without holding one of them in memory, and removes the folder.

        Args:
          out: the file.
          shards: how many there are.
          labelled: whether they have classes.

        Raises:
          UserError: a shard cannot be read, or the file cannot be written.
        """
        try:
            with atomic_write(out) as part, zipfile.ZipFile(part, "w", allowZip64=True) as archive:
                for what in ("features", "names", *(("labels",) if labelled else ())):
                    _write_member(archive, what, [self.path(what, shard) for shard in range(shards)])
                if labelled:
                    _write_member(archive, CLASSES, [self.folder / f"{CLASSES}.npy"])
        except OSError as error:
            raise UserError(
                f"{out} cannot be written: {error.strerror or error}; {self.folder} stays: free some space, and run "
                "the same command again"
            ) from error
        self.remove()

    def remove(self) -> None:
        """Removes the folder with all shards."""
        if is_bucket(self.folder):
            self.folder.rmtree(missing_ok=True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def _write_member(archive: zipfile.ZipFile, name: str, paths: Sequence[Path]) -> None:
    """The arrays of files, one behind the other, as a member of an archive."""
    heads = [_load(path) for path in paths]
    dtype = np.result_type(*heads)  # names of shards differ in their length
    shape = (sum(map(len, heads)), *heads[0].shape[1:])
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        _write_header(member, shape, dtype)
        for array in heads:
            for rows in _slices(array):
                member.write(np.ascontiguousarray(rows, dtype).tobytes())


def _slices(array: np.ndarray, most_bytes: int = 2**26) -> Iterator[np.ndarray]:
    step = max(1, most_bytes // max(1, array[:1].nbytes))
    return (array[start : start + step] for start in range(0, len(array), step))


def _write_header(stream: Any, shape: tuple[int, ...], dtype: Any = np.float32) -> None:
    """Writes the header of an array in C order. NumPy leaves room in it: any number of rows takes the same bytes."""
    header = dict(descr=np.lib.format.dtype_to_descr(np.dtype(dtype)), fortran_order=False, shape=shape)
    np.lib.format.write_array_header_1_0(stream, header)


def _texts(texts: Sequence[str]) -> np.ndarray:
    return np.array(texts, np.str_) if texts else np.empty(0, "U1")


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as part, part.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def _read_rows(path: Path) -> int:
    """The number of rows of an array in a bucket, of which only the beginning is read.

    Raises:
      UserError: the file is damaged.
    """
    try:
        with path.open("rb") as stream:
            np.lib.format.read_magic(stream)
            return np.lib.format.read_array_header_1_0(stream)[0][0]
    except (ValueError, IndexError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it, and run the same command again") from error


def _load(path: Path) -> np.ndarray:
    """An array that is read when it is used.

    Raises:
      UserError: the file is damaged or missing.
    """
    try:
        return np.load(local_path(path), mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's parser of headers raises many kinds
        raise UserError(f"{path} cannot be read ({error}); delete it, and run the same command again") from error
