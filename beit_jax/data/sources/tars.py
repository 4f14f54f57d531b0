"""`tars:FOLDER` or `tars:PATTERN`: tar files as WebDataset has them, with images `KEY.jpg` and labels `KEY.cls`."""

import concurrent.futures
import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from beit_jax.data.sources import layout
from beit_jax.data.sources.encoded import EncodedImages, join_images
from beit_jax.data.sources.examples import Examples, listed
from beit_jax.data.sources.listed_once import kept
from beit_jax.data.sources.names import class_name
from beit_jax.data.sources.split_names import by_split, find_files
from beit_jax.data.sources.tar_index import IMAGES, TarIndex, index_tar
from beit_jax.data.sources.written_labels import WrittenLabels, number_classes
from beit_jax.errors import UserError

SUFFIXES = (".tar",)
CLASS_NAMES = "classnames.txt"  # a line for each class, as CLIP's benchmark has it
ADVICE = "add KEY.cls, or a `label` in KEY.json, to each"
THREADS = 16  # that wait for a disk or a network
SHOW_AFTER_S = 3.0


def open_tars(path: str) -> "Tars":
    """
    Raises:
      UserError: there are no tar files, or their names do not tell their splits.
    """
    files = find_files(path, SUFFIXES)
    if not files:
        raise UserError(f"{path} holds no .tar files; expected some, not compressed, with images such as KEY.jpg")
    return Tars(path, files)


class Tars:
    """A `DataSet`."""

    def __init__(self, path: str, files: list[str]):
        self._path = path
        self._root = path if os.path.isdir(path) else os.path.commonpath([os.path.dirname(file) for file in files])
        self._files = by_split(files, self._root)
        self.splits = tuple(sorted(self._files, key=lambda name: (name != layout.REFERENCE, name)))

    def examples(self, split: str) -> Examples:
        """See `DataSet`."""
        files = tuple(self._files[split])
        indices = _index_all(files)
        images = self._images(files, indices)
        labels = _written_labels(files, indices, images)
        reference = labels
        if split != layout.REFERENCE and layout.REFERENCE in self.splits:
            others = tuple(self._files[layout.REFERENCE])
            reference = _written_labels(others, _index_all(others), None)
        numbers, classes, names = number_classes(labels, reference, self._class_names())
        digest = functools.partial(_digest, images, numbers)
        return Examples(images, images.count, numbers, classes, names, digest)

    def _images(self, files: tuple[str, ...], indices: list[TarIndex]) -> EncodedImages:
        if not any(len(index.offsets) for index in indices):
            others = sorted({str(other) for index in indices for other in index.others})
            found = f"found the extensions {listed(others)}" if others else "found nothing"
            raise UserError(f"{files[0]} holds no images; {found}, expected KEY.{', KEY.'.join(IMAGES)}")
        names = [os.path.relpath(path, self._root) for path in files]
        parts = [
            EncodedImages((path,), np.zeros(len(index.offsets), np.int32), index.offsets, index.sizes, str, str)
            for path, index in zip(files, indices, strict=True)
        ]
        starts = np.cumsum([0, *(part.count for part in parts)])

        def name(position: int) -> str:
            number = int(np.searchsorted(starts, position, side="right")) - 1
            return f"{files[number]}/{indices[number].names[position - starts[number]].decode()}"

        return join_images(parts, name, lambda: _hash(names, indices))

    def _class_names(self) -> tuple[str, ...]:
        file = Path(self._root, CLASS_NAMES)
        if not file.is_file():
            return ()
        names = tuple(class_name(line.strip()) for line in file.read_text("utf-8", "replace").strip().splitlines())
        if len(set(names)) < len(names) or not all(names):
            raise UserError(f"{file} has an empty line, or a name twice; expected a line for each class, all different")
        return names


def _written_labels(files: tuple[str, ...], indices: list[TarIndex], images: EncodedImages | None) -> WrittenLabels:
    texts, columns = [], []
    for index in indices:
        columns.append(np.where(index.labels < 0, -1, index.labels + len(texts)))
        texts += [str(text) for text in index.texts]
    where = f"{files[0]}{' and others' if len(files) > 1 else ''}"
    return WrittenLabels(texts, np.concatenate(columns), where, ADVICE, images.name if images else str)


@kept
def _index_all(files: tuple[str, ...]) -> list[TarIndex]:
    from beit_jax.runtime.progress import progress_bar

    with (
        progress_bar(len(files), 0, "tars", delay=SHOW_AFTER_S) as progress,
        concurrent.futures.ThreadPoolExecutor(THREADS) as pool,
    ):
        indices = []
        for index in pool.map(index_tar, files):
            indices.append(index)
            progress.update()
        return indices


def _digest(images: EncodedImages, labels: np.ndarray | None) -> Any:
    return images.digest(), b"" if labels is None else labels.tobytes()


def _hash(names: list[str], indices: list[TarIndex]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, index in zip(names, indices, strict=True):
        for part in (os.fsencode(name), index.offsets.tobytes(), index.sizes.tobytes(), index.names.tobytes()):
            digest.update(part)
    return digest.hexdigest()
