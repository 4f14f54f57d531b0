"""Images that two splits have in common: what a run is evaluated on must not be what it learned."""

import os
from typing import Any

from beit_jax.data.fingerprint import MANY
from beit_jax.data.sources import data_sets, folder, layout
from beit_jax.data.sources.open_source import open_split
from beit_jax.data.sources.tree import is_link, real_path


def count_common(config: Any, split: str, other: str) -> int:
    """How many images are in both of two splits; a file that is reached by two paths is one image.

    Args:
      config: of the input, see `pipeline`.
      split: with or without a slice.
      other: likewise.

    Raises:
      UserError: a split cannot be read.
    """
    if data_sets.has_prefix(config.source):
        return data_sets.count_common(config.source, split, other)
    root = layout.path_of(config.source)
    if not root:
        return _count_common_records(*(_records(config, name) for name in (split, other)))
    files, others = (_files(root, name) for name in (split, other))
    return len(files & others)


def _files(root: str, split: str) -> set[tuple[str, str]]:
    """Folder and name of each image of a split, without symbolic links; of many images, only folders are followed."""
    paths = folder.list_paths(root, split)
    parents: dict[str, str] = {}
    files = set()
    for path in paths:
        path = real_path(path) if len(paths) <= MANY and is_link(path) else path
        parent, name = os.path.split(path)
        if parent not in parents:
            parents[parent] = real_path(parent)
        files.add((parents[parent], name))
    return files


def _records(config: Any, split: str) -> list[tuple[str, int, int]]:
    """The files of a split, each with the first of its records and the one after the last."""
    return [
        (real_path(os.fspath(file.filename)), file.skip, file.skip + file.take)
        for file in open_split(config.source, config.data_dir, split)[1].file_instructions
    ]


def _count_common_records(files: list[tuple[str, int, int]], others: list[tuple[str, int, int]]) -> int:
    by_name: dict[str, list[tuple[int, int]]] = {}
    for name, start, end in others:
        by_name.setdefault(name, []).append((start, end))
    return sum(
        max(0, min(end, other_end) - max(start, other_start))
        for name, start, end in files
        for other_start, other_end in by_name.get(name, ())
    )
