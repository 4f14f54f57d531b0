"""Lists the images of a folder that belong to a split, with their classes or their label maps."""

import collections
import contextlib
import glob
import hashlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from beit_jax.data.sources.ignored_files import check_found, count_ignored
from beit_jax.data.sources.listed_once import kept
from beit_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
IMAGES, ANNOTATIONS = "images", "annotations"  # the folders of a data set for segmentation
SPLIT_FOLDERS = {"train": ("train", "training"), "validation": ("validation", "val"), "test": ("test",)}
_SPLIT_OF = {folder: split for split, folders in SPLIT_FOLDERS.items() for folder in folders}
SPLIT = re.compile(r"(?P<name>\w+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")
SLOW_S = 5.0  # listing takes longer if there are millions of images, or if they lie on a network file system


class Listing(NamedTuple):
    """Paths of the images, the class of each image, and the names of the classes (empty without class folders)."""

    paths: list[str]
    labels: list[int]
    classes: list[str]

    @property
    def num_classes(self) -> int:
        """1 without class folders."""
        return max(1, len(self.classes))


def path_of(source: str) -> str:
    """The path of a source `folder:PATH`, with the home folder for `~`; "" for another source.

    Raises:
      UserError: the path is empty.
    """
    if not source.startswith("folder:"):
        return ""
    path = source.removeprefix("folder:").strip()
    if not path:
        raise UserError(f"the source {source!r} names no folder; expected folder:PATH, such as folder:photos")
    return str(Path(path).expanduser())


def check_folder(root: str) -> None:
    """
    Raises:
      UserError: there is no such folder, or no image below it.
    """
    if not os.path.isdir(root):
        raise UserError(_describe_missing(root))
    if next(images_below(root), None) is None:
        raise UserError(f"{root} holds no images; expected {', '.join(EXTENSIONS)} files, in class folders or not")


def check_split(root: str, split: str) -> None:
    """Checks a split of a folder without listing its images.

    Raises:
      UserError: the folder has no such split.
    """
    _split_folder(Path(root, IMAGES) if is_paired(root) else Path(root), _parse_split(split)["name"])


def _describe_missing(root: str) -> str:
    if os.path.exists(root):
        return f"{root} is a file; expected the folder that the images lie in"
    if root == "PATH":
        return "there is no folder PATH; write the path of your own images in its place, such as folder:photos"
    if "\\" in root:
        hint = "this system separates folders with /, not with \\"
    elif os.path.isabs(root):
        hint = "check the path"
    else:
        hint = f"the path starts from {os.getcwd()}: check it, or give all of it"
    return f"there is no folder {root}; {hint}"


def list_folder(root: str, split: str) -> Listing:
    """The images of `root` that belong to `split`.

    `root` has split folders (train or training, val or validation, test), class folders, or images; split folders have
    class folders or images. Without split folders everything is "train". Slices such as "train[:90%]", "train[90%:]"
    and "train[-500:]" are cut from an order that depends on the files' names alone, and in which the classes are mixed.

    Raises:
      UserError: the folder is missing or empty, the split is unknown, or there are images beside class folders.
    """
    match = _parse_split(split)
    images, classes = _list_images(root, match["name"])
    images = _slice(images, match["start"], match["stop"], split)
    return Listing([path for path, _ in images], [label for _, label in images], classes)


@kept
def _list_images(root: str, name: str) -> tuple[list[tuple[str, int]], list[str]]:
    """Path and class of every image of a split, in its order, and the names of the classes."""
    top = Path(root)
    if not top.is_dir():
        raise UserError(_describe_missing(root))
    folder, reference = _split_folder(top, name)
    with _warn_if_slow(folder):
        ignored: collections.Counter = collections.Counter()  # files of other formats, by extension
        by_class = _class_folders(folder, ignored)
        classes = list(by_class) if reference == folder else list(_class_folders(reference, collections.Counter()))
        unknown = sorted(by_class.keys() - set(classes))
        if unknown:
            raise UserError(f"the class folder {folder / unknown[0]} is not in {reference}; rename or remove it")
        images = [(path, 0) for path in _images_in(folder, ignored)]
        for label, class_name in enumerate(classes):
            images += [(path, label) for path in by_class.get(class_name, ())]
        check_found(images, ignored, folder, f"{', '.join(EXTENSIONS)} files, in class folders or not")
        return _mix(images, folder), classes


def list_splits(root: str) -> list[str]:
    """Names of the splits of a folder that `list_folder` or `list_pairs` reads; ["train"] without split folders.

    Raises:
      UserError: the folder is missing.
    """
    top = Path(root, IMAGES) if is_paired(root) else Path(root)
    if not top.is_dir():
        raise UserError(_describe_missing(root))
    present = _subfolders(top)
    if not _has_splits(present):
        return ["train"]
    return [split for split in SPLIT_FOLDERS if split in {_SPLIT_OF[folder] for folder in present}]


def is_paired(root: str) -> bool:
    """Whether a folder has the layout of `list_pairs`."""
    return all(os.path.isdir(os.path.join(root, name)) for name in (IMAGES, ANNOTATIONS))


def list_pairs(root: str, split: str) -> list[tuple[str, str]]:
    """Paths of the images of a split, each with the path of its label map.

    The layout is that of ADEChallengeData2016: `images/` has images, with or without split folders (see `list_folder`,
    also for slices), and `annotations/` has a PNG file of the same name in the same folder for each image.

    Raises:
      UserError: an image has no label map or a label map has no image, or `list_folder` would fail.
    """
    match = _parse_split(split)
    return _slice(_match_pairs(root, match["name"]), match["start"], match["stop"], split)


@kept
def _match_pairs(root: str, name: str) -> list[tuple[str, str]]:
    """Paths of every image of a split and of its label map, in their order."""
    top = Path(root)
    folder, _ = _split_folder(top / IMAGES, name)
    ignored: collections.Counter = collections.Counter()
    images = _by_name(folder, EXTENSIONS, ignored)
    maps = _by_name(top / ANNOTATIONS / folder.relative_to(top / IMAGES), (".png",), collections.Counter())
    check_found(images, ignored, folder, f"{', '.join(EXTENSIONS)} files")
    for files, partners, kind, partner in ((images, maps, "image", "label map"), (maps, images, "label map", "image")):
        alone = sorted(set(files) - set(partners))
        if alone:
            missing_in = top / (ANNOTATIONS if kind == "image" else IMAGES)
            if kind == "image" and (
                other := _of_another_format(missing_in / folder.relative_to(top / IMAGES), alone[0])
            ):
                raise UserError(
                    f"the image {files[alone[0]]} has no label map of its name in {missing_in} but {other}; "
                    "expected PNG, since the compression of other formats changes labels"
                )
            raise UserError(
                f"the {kind} {files[alone[0]]} has no {partner} of its name in {missing_in} ({len(alone)} of "
                f"{len(files)} have none); add {'it' if len(alone) == 1 else 'them'} or remove the {kind}"
            )
    return _mix([(path, maps[name]) for name, path in images.items()], folder)


def _of_another_format(folder: Path, name: str) -> str:
    """The path of a file of that name, with any extension, in a folder; empty if there is none."""
    return next(map(str, folder.glob(f"{glob.escape(name)}.*")), "")


def _by_name(folder: Path, extensions: tuple[str, ...], ignored: collections.Counter) -> dict[str, str]:
    """Paths of the files below a folder, by their names relative to the folder without the extension."""
    named: dict[str, str] = {}
    for path in images_below(folder, ignored):
        name, extension = os.path.splitext(os.path.relpath(path, folder))
        if extension.lower() not in extensions:
            continue
        if name in named:
            raise UserError(f"found {named[name]} and {path}; expected one file of that name: remove one of them")
        named[name] = path
    return named


def _parse_split(split: str) -> re.Match:
    match = SPLIT.fullmatch(split)
    if not match:
        raise UserError(f"found the split '{split}'; expected a name with or without a slice, such as train[:90%]")
    return match


def _split_folder(top: Path, name: str) -> tuple[Path, Path]:
    """The folder of a split, and the folder whose class folders number the classes."""
    present = _subfolders(top)
    if not _has_splits(present):
        if name != "train":
            raise UserError(
                f"{top} has no split folders, and so only the split 'train' and its slices, not '{name}'; "
                "choose slices, such as data.split=train[:90%] and data.eval_split=train[90%:]"
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


def _class_folders(folder: Path, ignored: collections.Counter) -> dict[str, list[str]]:
    """Paths of the images of each class folder, by its name, in the order of names; without empty folders."""
    by_class = {name: list(images_below(folder / name, ignored)) for name in _subfolders(folder)}
    by_class = {name: paths for name, paths in by_class.items() if paths}
    if by_class and any(map(_is_image, os.listdir(folder))):
        raise UserError(
            f"{folder} has images beside the class folder {next(iter(by_class))}; move them into class folders"
        )
    return by_class


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _images_in(folder: Path, ignored: collections.Counter) -> Iterator[str]:
    names = os.listdir(folder)
    count_ignored(names, ignored)
    return (str(folder / name) for name in names if _is_image(name))


def images_below(folder: str | Path, ignored: collections.Counter | None = None) -> Iterator[str]:
    """Paths of the images in a folder and in all folders below it, in no order; counts files of other formats."""
    for parent, _, names in os.walk(folder, followlinks=True):
        if ignored is not None:
            count_ignored(names, ignored)
        yield from (os.path.join(parent, name) for name in names if _is_image(name))


def relative_name(path: str, folder: str | Path) -> str:
    """The name of a listed file relative to its folder, without `Path`, which would take as long as the listing."""
    return path.removeprefix(os.path.join(folder, "")).replace(os.sep, "/")


def as_text(name: str) -> str:
    """The name of a file or a folder as text: bytes that are not UTF-8 as `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _warn_if_slow(folder: Path) -> Iterator[None]:
    message = "listing the images of %s takes long; a data set of records (docs/data.md) needs no listing"
    timer = threading.Timer(SLOW_S, logging.getLogger("beit_jax").warning, (message, folder))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _mix(files: list[tuple[str, Any]], folder: Path) -> list[tuple[str, Any]]:
    """In the order of a hash of the names."""

    def position(item: tuple[str, Any]) -> bytes:
        name = relative_name(item[0], folder).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(name, digest_size=16).digest()

    return sorted(files, key=position)


def _slice(files: list, start: str | None, stop: str | None, split: str) -> list:
    first, end = _bound(start, 0, len(files)), _bound(stop, len(files), len(files))
    if not 0 <= first < end <= len(files):
        raise UserError(
            f"the split '{split}' asks for images {first} to {end} of {len(files)}, expected at least one; change its "
            "bounds"
        )
    return files[first:end]


def _bound(text: str | None, default: int, size: int) -> int:
    if text is None:
        return default
    value = round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
    return value + size if text.startswith("-") else value
