"""What lies in a folder of images and is not read: it is counted, and told once."""

import collections
import dataclasses
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from beit_jax.data.sources.names import as_text
from beit_jax.errors import printable

SHOWN = 10  # kinds or names of a message
# Files that lie beside images and that nobody expects to be read as one.
COMPANIONS = (
    *(".txt", ".md", ".rst", ".html", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".ini"),
    *(".cfg", ".names", ".data", ".cache", ".log", ".lst", ".db", ".mat", ".npy", ".npz", ".pkl", ".h5", ".parquet"),
    *(".xls", ".xlsx", ".doc", ".docx", ".py", ".ipynb", ".sh", ".bat", ".lnk", ".url", ".md5", ".sha1", ".sha256"),
)
TIFF, TIFF_COMMAND = (".tif", ".tiff"), "python -m beit_jax.tiff_to_arrays"
COMPANION_NAMES = ("readme", "license", "licence", "copying", "citation", "makefile")


@dataclasses.dataclass
class Skipped:
    """What a walk through folders has not read.

    Attributes:
      kinds: number of files with each extension that images do not have ("": none), without companions of images.
      companions: number of these: tables, texts and the like.
      hidden: number of folders with each name that begins with a dot, or that a system gives; images, by extension.
      special: named pipes, sockets and devices with the name of an image.
      links: links to folders that were read already.
      beside: number of images beside split folders.
      folders: names of folders beside class folders, without images.
      runs: folders of runs, whose pictures are not data.
    """

    kinds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    hidden: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    special: list[str] = dataclasses.field(default_factory=list)
    links: list[str] = dataclasses.field(default_factory=list)
    runs: list[str] = dataclasses.field(default_factory=list)
    folders: list[str] = dataclasses.field(default_factory=list)
    companions: int = 0
    beside: int = 0

    def add_file(self, name: str) -> None:
        """Counts a file that is no image."""
        stem, extension = os.path.splitext(name.lower())
        if extension in COMPANIONS or (not extension and stem in COMPANION_NAMES):
            self.companions += 1
        else:
            self.kinds[as_text(extension)] += 1

    def add_hidden(self, name: str, is_folder: bool, is_image: bool) -> None:
        """Counts a hidden file or folder; files that are no images are nothing to tell."""
        if is_folder or is_image:
            self.hidden[name if is_folder else f".*{os.path.splitext(name)[1].lower()}"] += 1

    def is_no_class(self) -> bool:
        """Whether a folder in which there was no image has other contents than a class."""
        return bool(self.runs or self.companions) and not self.kinds

    def describe_kinds(self) -> str:
        """Such as "36 .tif, 4 without extension"; empty if there are none."""
        return _listed(f"{count:,} {kind or 'without extension'}" for kind, count in _most(self.kinds))

    def advice(self, folder: str | Path) -> str:
        """How files of other formats can be read."""
        tiffs = any(self.kinds[kind] for kind in TIFF)
        return "convert them to PNG or JPEG" + tiffs * f"; for TIFF: {TIFF_COMMAND} --images {folder} --out arrays"

    def describe(self, folder: str | Path) -> Iterator[str]:
        """A phrase for each reason why something was not read."""
        if self.kinds:
            count = self.kinds.total()
            files = "1 file that is no image" if count == 1 else f"{count:,} files that are no images"
            yield f"{files} by the extension ({self.describe_kinds()}; to use pictures, {self.advice(folder)})"
        if self.beside:
            yield f"images beside the split folders ({self.beside:,})"
        if self.folders:
            yield f"folders without images ({_listed(map(as_text, self.folders))})"
        if self.hidden:
            names = _listed(f"{count:,} {as_text(name)}" for name, count in _most(self.hidden))
            yield f"hidden files and folders, and those of the system ({names})"
        if self.special:
            yield f"pipes, sockets and devices ({_listed(map(as_text, sorted(self.special)))})"
        if self.links:
            yield f"links to folders that are read already ({_listed(map(as_text, sorted(self.links)))})"
        if self.runs:
            yield f"folders of runs ({_listed(map(as_text, sorted(self.runs)))}), whose pictures are no data"

    def warn(self, folder: str | Path) -> None:
        """Says what was not read of a folder, once, however often a command lists it."""
        if found := "; ".join(self.describe(folder)):
            _warn(printable(as_text(str(folder))), printable(found))


def _most(counts: collections.Counter) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _listed(items: Iterator[str]) -> str:
    items = list(items)
    return ", ".join(items[:SHOWN]) + (f", ... ({len(items)})" if len(items) > SHOWN else "")


@functools.cache
def _warn(folder: str, found: str) -> None:
    logging.getLogger("beit_jax").warning("not read in %s: %s", folder, found)
