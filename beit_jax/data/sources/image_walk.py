"""Finds the images below folders. Each real folder is read once; what is not read is counted."""

import contextlib
import json
import os
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from beit_jax.data.sources import tree
from beit_jax.data.sources.listed_once import kept
from beit_jax.data.sources.skipped import Skipped
from beit_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp")
# Folders that systems, cameras and network drives make; those whose names begin with a dot are hidden anyway.
SYSTEM_FOLDERS = frozenset(
    ("__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found")
)
RUN_CONFIG = "config.json"


class Contents(NamedTuple):
    """Paths of the images right in a folder, and of the folders in it."""

    images: list[str]
    folders: list[str]


class ImageWalk:
    """Walks through folders.

    Attributes:
      skipped: what was not read so far.
      folders: paths of the folders that were read.
    """

    def __init__(self) -> None:
        self.skipped, self.folders = Skipped(), []
        self._read: set[Hashable] = set()  # the identity of each real folder that was read

    def images(self, folders: Sequence[str | Path]) -> Iterator[tuple[int, str]]:
        """The images at any depth below folders, in no order, each with the index of its folder.

        Links to folders are followed after everything else, and only to folders that were not read before: a link to a
        folder above it adds nothing.

        Raises:
          UserError: a folder cannot be read.
        """
        pending, links = [(index, str(path)) for index, path in enumerate(folders)], []
        while pending or links:
            if not pending:
                links.sort(key=lambda link: link[1], reverse=True)  # the same one first on every machine
                pending.append(links.pop())
            elif tree.is_link(pending[-1][1]):
                links.append(pending.pop())
                continue
            index, path = pending.pop()
            contents = self.enter(path)
            yield from ((index, image) for image in contents.images)
            pending += [(index, folder) for folder in contents.folders]

    def enter(self, path: str | Path) -> Contents:
        """What lies in a folder; nothing if it was read before.

        Raises:
          UserError: the folder cannot be read.
        """
        path = str(path)
        entries = _entries(path)
        if (identity := tree.identity(path)) in self._read:
            self.skipped.links.append(path)
            return Contents([], [])
        self._read.add(identity)
        self.folders.append(path)
        contents = Contents([], [])
        for entry in entries:
            if _is_hidden(entry.name):
                self.skipped.add_hidden(entry.name, _is_folder(entry), entry.name.lower().endswith(EXTENSIONS))
            elif not _is_folder(entry):
                if _is_image(entry.name) and _is_special(entry):
                    self.skipped.special.append(entry.path)
                elif _is_image(entry.name):
                    contents.images.append(entry.path)
                else:
                    self.skipped.add_file(entry.name)
            elif is_run(entry.path):
                self.skipped.runs.append(entry.path)
            elif _leads_up(entry):
                self.skipped.links.append(entry.path)
            else:
                contents.folders.append(entry.path)
        return contents


def _entries(path: str) -> list[os.DirEntry | tree.Entry]:
    try:
        with tree.scan(path) as entries:
            return list(entries)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"the folder {path} cannot be read: {reason}; allow it to be read") from error


@kept
def subfolders(folder: str | Path) -> list[str]:
    """Names of the folders that `ImageWalk.enter` finds in a folder, in order, without a look at its files."""
    return sorted(
        entry.name
        for entry in _entries(str(folder))
        if not _is_hidden(entry.name) and _is_folder(entry) and not is_run(entry.path) and not _leads_up(entry)
    )


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and name[0] != "."


def _is_folder(entry: os.DirEntry | tree.Entry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # an endless link
        return False


def _is_special(entry: os.DirEntry | tree.Entry) -> bool:
    """Whether an entry is a named pipe, a socket or a device, or a link to one: reading it may take for ever."""
    try:
        return not entry.is_file() and os.path.exists(entry.path)
    except OSError:  # an endless link: an image that cannot be read
        return False


def _is_hidden(name: str) -> bool:
    return name[0] == "." or name.lower() in SYSTEM_FOLDERS


def _leads_up(entry: os.DirEntry | tree.Entry) -> bool:
    """Whether a folder is a link to one that it lies in."""
    return entry.is_symlink() and Path(entry.path).parent.resolve().is_relative_to(Path(entry.path).resolve())


def holds_images(folder: str | Path) -> bool:
    """Whether there is an image anywhere below a folder; most often, a look at a few of its files tells."""
    pending, read = [str(folder)], set()
    while pending:
        path = pending.pop()
        if (real := tree.real_path(path)) in read:
            continue
        read.add(real)
        with contextlib.suppress(OSError), tree.scan(path) as entries:  # `subfolders` says why
            if any(_is_image(entry.name) and not _is_folder(entry) and not _is_special(entry) for entry in entries):
                return True
        pending += [os.path.join(path, name) for name in reversed(subfolders(path))]
    return False


def is_run(folder: str | Path) -> bool:
    """Whether a folder is that of a run of this library: it has the config of one."""
    try:
        config = json.loads(tree.read_text(os.path.join(folder, RUN_CONFIG)))
    except (OSError, ValueError):
        return False
    if not isinstance(config, dict):
        return False
    stages = config.get("stages")
    return {"task", "data", "optimizer"} <= config.keys() or (isinstance(stages, list) and set(stages) <= config.keys())
