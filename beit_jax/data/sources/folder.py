"""Folders of images: which files belong to a split, and which class each one is, or which label map it has."""

import contextlib
import hashlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from beit_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
IMAGES, ANNOTATIONS = "images", "annotations"  # the folders of a data set for segmentation
SPLIT_FOLDERS = {"train": ("train", "training"), "validation": ("validation", "val"), "test": ("test",)}
_SPLIT_OF = {folder: split for split, folders in SPLIT_FOLDERS.items() for folder in folders}
SPLIT = re.compile(r"(?P<name>\w+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")
SLOW_S = 5.0  # listing takes longer where there are millions of images, or a network before them


class Listing(NamedTuple):
    """Paths of the images, the class number of each, and the names of the classes (none without class folders)."""

    paths: list[str]
    labels: list[int]
    classes: list[str]

    @property
    def num_classes(self) -> int:
        """1 without class folders."""
        return max(1, len(self.classes))


def list_folder(root: str, split: str) -> Listing:
    """The images of `root` that belong to `split`.

    `root` holds split folders (train or training, val or validation, test), class folders, or images; split folders
    hold class folders or images. Without split folders everything is "train", of which slices such as "train[:90%]",
    "train[90%:]" and "train[-500:]" make splits, cut from an order fixed by the files' names, in which the classes are
    mixed.
    Raises UserError for a missing or empty folder, an unknown split, and images beside class folders.
    """
    match = _match(split)
    top = Path(root)
    if not top.is_dir():
        raise UserError(f"there is no folder {root}; check the path behind 'folder:'")
    folder, reference = _split_folder(top, match["name"])
    with _said_if_slow(folder):
        below = _class_folders(folder)
        classes = list(below) if reference == folder else list(_class_folders(reference))
        unknown = sorted(below.keys() - set(classes))
        if unknown:
            raise UserError(f"the class folder {folder / unknown[0]} is not in {reference}; rename or remove it")
        found = [(path, 0) for path in _images_in(folder)]
        for label, name in enumerate(classes):
            found += [(path, label) for path in below.get(name, ())]
        if not found:
            expected = f"{', '.join(EXTENSIONS)} files, in class folders or not"
            raise UserError(f"{folder} holds no images; expected {expected}")
        found = _slice(_mixed(found, folder), match["start"], match["stop"], split)
    return Listing([path for path, _ in found], [label for _, label in found], classes)


def list_splits(root: str) -> list[str]:
    """Names of the splits of a folder that `list_folder` or `list_pairs` reads; ["train"] without split folders.

    Raises UserError for a missing folder.
    """
    top = Path(root, IMAGES) if is_paired(root) else Path(root)
    if not top.is_dir():
        raise UserError(f"there is no folder {root}; check the path")
    present = _subfolders(top)
    if not _has_splits(present):
        return ["train"]
    return [split for split in SPLIT_FOLDERS if split in {_SPLIT_OF[folder] for folder in present}]


def is_paired(root: str) -> bool:
    """Whether the folder has the layout of `list_pairs`."""
    return all(os.path.isdir(os.path.join(root, name)) for name in (IMAGES, ANNOTATIONS))


def list_pairs(root: str, split: str) -> list[tuple[str, str]]:
    """Paths of the images of a split, each with that of its label map.

    The layout is that of ADEChallengeData2016: `images/` holds images, in split folders or not (see `list_folder`, also
    for slices), and `annotations/` a PNG file of the same name, in the same folder, for each. Raises UserError for an
    image or a label map without its partner, naming it, and whenever `list_folder` would.
    """
    match, top = _match(split), Path(root)
    folder, _ = _split_folder(top / IMAGES, match["name"])
    images = _by_name(folder)
    maps = _by_name(top / ANNOTATIONS / folder.relative_to(top / IMAGES), (".png",))
    if not images:
        raise UserError(f"{folder} holds no images; expected {', '.join(EXTENSIONS)} files")
    for found, partners, kind, partner in ((images, maps, "image", "label map"), (maps, images, "label map", "image")):
        lonely = sorted(set(found) - set(partners))
        if lonely:
            place = top / (ANNOTATIONS if kind == "image" else IMAGES)
            raise UserError(
                f"the {kind} {found[lonely[0]]} has no {partner} of its name in {place} ({len(lonely)} of {len(found)} "
                f"have none); add {'it' if len(lonely) == 1 else 'them'} or remove the {kind}"
            )
    pairs = _mixed([(path, maps[name]) for name, path in images.items()], folder)
    return _slice(pairs, match["start"], match["stop"], split)


def _by_name(folder: Path, extensions: tuple[str, ...] = EXTENSIONS) -> dict[str, str]:
    """Paths of the files below a folder by their names in it without the extension."""
    named: dict[str, str] = {}
    for path in _images_below(folder):
        name, extension = os.path.splitext(os.path.relpath(path, folder))
        if extension.lower() not in extensions:
            continue
        if name in named:
            raise UserError(f"found {named[name]} and {path}; expected one file of that name: remove the other")
        named[name] = path
    return named


def _match(split: str) -> re.Match:
    match = SPLIT.fullmatch(split)
    if not match:
        raise UserError(f"found the split '{split}'; expected a name with or without a slice, such as train[:90%]")
    return match


def _split_folder(top: Path, name: str) -> tuple[Path, Path]:
    """The folder of a split, and the one whose class folders give the classes their numbers."""
    present = _subfolders(top)
    if not _has_splits(present):
        if name != "train":
            raise UserError(
                f"{top} has no split folders, so that there is only 'train' and its slices, not '{name}'; "
                "set the split to one such as train[90%:]"
            )
        return top, top
    splits = {_SPLIT_OF[folder]: top / folder for folder in present}
    if name not in splits:
        raise UserError(f"{top} has the splits {', '.join(splits)}, not '{name}'; choose one or add the folder")
    return splits[name], splits.get("train", splits[name])


def _has_splits(subfolders: list[str]) -> bool:
    return bool(subfolders) and not set(subfolders) - set(_SPLIT_OF)


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _class_folders(folder: Path) -> dict[str, list[str]]:
    """Paths of the images of each class folder, by its name, in the order of names; without empty ones."""
    below = {name: list(_images_below(folder / name)) for name in _subfolders(folder)}
    below = {name: paths for name, paths in below.items() if paths}
    if below and any(True for _ in _images_in(folder)):
        raise UserError(
            f"{folder} holds images beside the class folder {next(iter(below))}; move them into class folders"
        )
    return below


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _images_in(folder: Path):
    return (str(folder / name) for name in os.listdir(folder) if _is_image(name))


def _images_below(folder: Path):
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (os.path.join(parent, name) for name in names if _is_image(name))


def relative(path: str, folder: str | Path) -> str:
    """The name of a listed file in the folder it was listed in, as text: `Path` would take as long as the listing."""
    return path.removeprefix(os.path.join(folder, "")).replace(os.sep, "/")


@contextlib.contextmanager
def _said_if_slow(folder: Path) -> Iterator[None]:
    message = "listing the images of %s takes a while; as records (docs/data.md) they would not have to be listed"
    timer = threading.Timer(SLOW_S, logging.getLogger("beit_jax").warning, (message, folder))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _mixed(found: list[tuple[str, Any]], folder: Path) -> list[tuple[str, Any]]:
    def position(item: tuple[str, Any]) -> bytes:
        name = relative(item[0], folder).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(name, digest_size=16).digest()

    return sorted(found, key=position)


def _slice(found: list, start: str | None, stop: str | None, split: str) -> list:
    bounds = [_bound(start, 0, len(found)), _bound(stop, len(found), len(found))]
    if not 0 <= bounds[0] < bounds[1] <= len(found):
        asked = f"images {bounds[0]} to {bounds[1]} of {len(found)}"
        raise UserError(f"the split '{split}' asks for {asked}, expected at least one; change its bounds")
    return found[bounds[0] : bounds[1]]


def _bound(text: str | None, default: int, size: int) -> int:
    if text is None:
        return default
    value = round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
    return value + size if text.startswith("-") else value
