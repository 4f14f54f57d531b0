"""Tables of images as `datasets` of Hugging Face stores them: Arrow files, and Parquet, which is unpacked once."""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np

from beit_jax.data.sources import layout
from beit_jax.data.sources.encoded import EncodedImages, join_images
from beit_jax.data.sources.examples import Examples
from beit_jax.data.sources.hf_columns import choose_columns, image_ranges, label_texts, open_table, unpack
from beit_jax.data.sources.written_labels import WrittenLabels, number_classes
from beit_jax.errors import UserError

ADVICE = "give one to each"


class Tables:
    """A `DataSet`: files with a row for each image.

    Args:
      root: the folder of all files.
      files: paths of each split.

    Raises:
      UserError: a file has no images.
    """

    def __init__(self, root: str, files: Mapping[str, Sequence[str]]):
        self._root, self._files = root, files
        self.splits = tuple(sorted(files, key=lambda name: (name != layout.REFERENCE, name)))
        self._columns = {path: choose_columns(path) for paths in files.values() for path in paths}
        first = next(iter(self._columns))
        for path, columns in self._columns.items():
            if columns != self._columns[first]:
                raise UserError(f"{path} and {first} have other columns or names of classes; expected the same in all")

    def examples(self, split: str) -> Examples:
        """See `DataSet`. Parquet files are unpacked into the cache."""
        paths = self._files[split]
        names = next(iter(self._columns.values())).class_names
        labels = self._labels(split)
        reference = labels if names or layout.REFERENCE not in self.splits else self._labels(layout.REFERENCE)
        numbers, classes, names = number_classes(labels, reference, names)
        if all(name == str(number) for number, name in enumerate(names)):
            names = ()  # `datasets` gives these to classes without names
        images = self._images(paths)
        return Examples(images, images.count, numbers, classes, names, functools.partial(_digest, images, numbers))

    def _images(self, paths: Sequence[str]) -> EncodedImages:
        unpacked = unpack(paths, self._columns)
        ranges = [image_ranges(path, file, self._columns[path]) for path, file in zip(paths, unpacked, strict=True)]
        parts = [
            EncodedImages((file,), np.zeros(len(sizes), np.int32), offsets, sizes, str, str)
            for file, (offsets, sizes) in zip(unpacked, ranges, strict=True)
        ]
        starts = np.cumsum([0, *(part.count for part in parts)])
        if not starts[-1]:
            raise UserError(f"{paths[0]} holds no images: it has no rows")

        def name(position: int) -> str:
            number = int(np.searchsorted(starts, position, side="right")) - 1
            return f"{paths[number]}[{position - starts[number]}]"

        relative = [os.path.relpath(path, self._root) for path in paths]
        return join_images(parts, name, lambda: _hash(relative, parts))

    def _labels(self, split: str) -> WrittenLabels:
        texts, columns, rows = [], [], []
        for path in self._files[split]:
            column = self._columns[path].label
            with open_table(path) as table:
                count = table.num_rows
                index, own = (np.full(count, -1), []) if not column else label_texts(path, table.read(column))
            rows += [(path, row) for row in np.flatnonzero(index < 0)[:1]]
            columns.append(np.where(index < 0, -1, index + len(texts)))
            texts += own
        where = f"{self._files[split][0]}{' and others' if len(columns) > 1 else ''}"
        first = "{}[{}]".format(*rows[0]) if rows else ""
        return WrittenLabels(texts, np.concatenate(columns), where, ADVICE, lambda _: first)


def _digest(images: EncodedImages, labels: np.ndarray | None) -> tuple:
    return images.digest(), b"" if labels is None else labels.tobytes()


def _hash(names: Sequence[str], parts: Sequence[EncodedImages]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, part in zip(names, parts, strict=True):
        digest.update(os.fsencode(name) + part.sizes.tobytes())
    return digest.hexdigest()
