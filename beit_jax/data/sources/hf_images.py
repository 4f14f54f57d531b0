"""Folders of images of Hugging Face: with a table of file names and labels, or with class folders."""

import csv
import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from beit_jax.data.sources import folder_checks, layout
from beit_jax.data.sources.encoded import EncodedImages, files_of
from beit_jax.data.sources.examples import Examples, listed
from beit_jax.data.sources.folder import list_folder
from beit_jax.data.sources.names import relative_name
from beit_jax.data.sources.written_labels import WrittenLabels, number_classes
from beit_jax.errors import UserError

METADATA = ("metadata.csv", "metadata.jsonl")
FILE_NAME, LABEL = "file_name", "label"


class ClassFolders:
    """A `DataSet`: the folders that `folder:` reads.

    Raises:
      UserError: there are no images.
    """

    def __init__(self, root: str):
        folder_checks.check_folder(root)
        if layout.is_paired(root):
            raise UserError(f"{root} has label maps; give folder:{root}")
        self._root, self.splits = root, tuple(layout.list_splits(root))

    def examples(self, split: str) -> Examples:
        """See `DataSet`."""
        found = list_folder(self._root, split)
        if found.classes:
            folder_checks.check_not_empty(self._root, split)
        labels = np.array(found.labels, np.int64) if found.classes else None
        images = files_of(found.paths, functools.partial(_sizes, found.paths, self._root))
        digest = functools.partial(_digest, images, labels)
        return Examples(images, len(found.paths), labels, found.num_classes, tuple(found.classes), digest)


class NamedFiles:
    """A `DataSet`: images in a folder, of which tables tell the names and the labels.

    Args:
      root: the folder.
      tables: paths of the tables, in the folder or in folders of it.

    Raises:
      UserError: a table is damaged, or names a file that is not there.
    """

    def __init__(self, root: str, tables: Sequence[Path]):
        self._root = os.path.realpath(root)
        self._rows: dict[str, list[tuple[str, str]]] = {}
        for table in tables:
            for number, row in enumerate(_rows(table)):
                path = self._path(table, number, row)
                first, inside, _ = relative_name(path, self._root).partition("/")
                split = layout.SPLIT_OF.get(first.lower(), "") if inside else ""
                label = row.get(LABEL)
                self._rows.setdefault(split or layout.REFERENCE, []).append((path, "" if label is None else str(label)))
        if not self._rows:
            raise UserError(f"{tables[0]} has no rows; expected one for each image")
        self._table = tables[0]
        self.splits = tuple(sorted(self._rows, key=lambda name: (name != layout.REFERENCE, name)))

    def examples(self, split: str) -> Examples:
        """See `DataSet`."""
        paths = [path for path, _ in self._rows[split]]
        images = files_of(paths, functools.partial(_sizes, paths, self._root))
        labels = self._labels(split)
        reference = self._labels(layout.REFERENCE) if layout.REFERENCE in self.splits else labels
        numbers, classes, names = number_classes(labels, reference)
        return Examples(images, len(paths), numbers, classes, names, functools.partial(_digest, images, numbers))

    def _labels(self, split: str) -> WrittenLabels:
        rows = self._rows[split]
        texts = sorted({label for _, label in rows} - {""})
        number = {text: index for index, text in enumerate(texts)} | {"": -1}
        index = np.array([number[label] for _, label in rows], np.int64)
        advice = f"add a {LABEL} to each"
        return WrittenLabels(texts, index, f"'{split}' of {self._table}", advice, lambda row: rows[row][0])

    def _path(self, table: Path, number: int, row: dict) -> str:
        name = row.get(FILE_NAME)
        if not isinstance(name, str) or not name:
            raise UserError(
                f"{table} has the columns {listed(row)} in row {number + 1}; expected {FILE_NAME!r}, and {LABEL!r}"
            )
        path = os.path.realpath(os.path.join(os.path.dirname(os.path.realpath(table)), name))
        if not path.startswith(os.path.join(self._root, "")):
            raise UserError(f"{table} names {name!r}, which lies outside of the folder; expected names of files in it")
        if not os.path.isfile(path):
            raise UserError(f"{table} names {name!r}, which is not there; restore it, or remove the row")
        return path


def _rows(table: Path) -> Iterator[dict]:
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            if table.suffix == ".csv":
                yield from csv.DictReader(file)
                return
            for line in filter(str.strip, file):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("a line is no object")
                yield row
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{table} is damaged ({error}); write it again") from error


def _digest(images: EncodedImages, labels: np.ndarray | None) -> tuple:
    return images.digest(), b"" if labels is None else labels.tobytes()


def _sizes(paths: Sequence[str], root: str) -> tuple:
    return tuple((relative_name(path, root), os.path.getsize(path) if os.path.exists(path) else -1) for path in paths)
