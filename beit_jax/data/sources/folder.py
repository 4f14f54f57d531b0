"""Lists the images of a folder that belong to a split, with their classes or their label maps."""

import contextlib
import logging
import os
from pathlib import Path
from typing import NamedTuple

from beit_jax.data.sources import layout
from beit_jax.data.sources.image_walk import EXTENSIONS, ImageWalk
from beit_jax.data.sources.listed_once import kept
from beit_jax.data.sources.slices import mix, parse_split
from beit_jax.data.sources.tree import is_folder, path_at, scan
from beit_jax.errors import UserError
from beit_jax.runtime.delayed import called_after

UNLABELLED = -1  # of images without class folder, in a split of a folder that has classes; as in tfds
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


def list_folder(root: str, split: str) -> Listing:
    """The images of `root` that belong to `split`.

    `root` has split folders (`layout.SPLIT_FOLDERS`), class folders, or images; split folders have class folders or
    images. Images beside folders have no classes. Without split folders everything is "train". Slices such as
    "train[:90%]", "train[90%:]" and "train[-500:]" are cut from an order that depends on the files' names alone, and in
    which the classes are mixed.

    Raises:
      UserError: the folder is missing or empty, the split is unknown, or it cannot be told which folders are splits
        (`layout.find_splits`).
    """
    part = parse_split(split)
    images, classes = _list_images(root, part.name)
    images = part.of(images)
    return Listing([path for path, _ in images], [label for _, label in images], classes)


@kept
def _list_images(root: str, name: str) -> tuple[list[tuple[str, int]], list[str]]:
    """Path and class of every image of a split, in its order, and the names of the classes with images."""
    if not is_folder(root):
        raise UserError(layout.describe_missing(root))
    top = path_at(root)
    folder, reference = layout.split_folder(top, name)
    with _warn_if_slow(folder):
        walk = ImageWalk()
        loose = walk.enter(folder).images
        by_class = _images_by_class(folder, walk)
        layout.check_depth(root, walk.folders)
        classes = list(by_class) if reference == folder else _list_images(root, layout.REFERENCE)[1]
        if loose and by_class:
            # Folders beside images are no classes; `folder_checks.check_classes` refuses them where classes count.
            loose += [path for paths in by_class.values() for path in paths]
            classes, by_class = [] if reference == folder else classes, {}
        unknown = sorted(by_class.keys() - set(classes))
        if unknown:
            raise UserError(f"the class folder {folder / unknown[0]} is not in {reference}; rename or remove it")
        images = [(path, UNLABELLED if classes else 0) for path in loose]
        for label, class_name in enumerate(classes):
            images += [(path, label) for path in by_class.get(class_name, ())]
        walk.skipped.beside = len(ImageWalk().enter(top).images) if folder != top else 0
        _check_found(bool(images), walk, folder, "in class folders or not")
        return mix(images, folder), classes


def _images_by_class(folder: Path, walk: ImageWalk) -> dict[str, list[str]]:
    """Paths of the images of each class, by its name, in the order of names; without classes that have none."""
    folders = layout.class_folders(folder)
    found: list[list[str]] = [[] for _ in folders]
    for index, path in walk.images(list(folders.values())):
        found[index].append(path)
    by_class = dict(zip(folders, found, strict=True))
    walk.skipped.folders = [name for name, paths in by_class.items() if not paths]
    return {name: paths for name, paths in by_class.items() if paths}


def list_paths(root: str, split: str) -> list[str]:
    """Paths of the images of a split, with label maps or without; see `list_folder` and `list_pairs`."""
    if layout.is_paired(root):
        return [image for image, _ in list_pairs(root, split)]
    return list_folder(root, split).paths


def list_pairs(root: str, split: str) -> list[tuple[str, str]]:
    """Paths of the images of a split, each with the path of its label map.

    The layout is that of ADEChallengeData2016: `images/` has images, with or without split folders (see `list_folder`,
    also for slices), and `annotations/` has a PNG file of the same name in the folder of the same split for each image.

    Raises:
      UserError: an image has no label map or a label map has no image, or `list_folder` would fail.
    """
    part = parse_split(split)
    return part.of(_match_pairs(root, part.name))


@kept
def _match_pairs(root: str, name: str) -> list[tuple[str, str]]:
    """Paths of every image of a split and of its label map, in their order."""
    top, annotations = layout.find_paired(root)
    folder, _ = layout.split_folder(top, name)
    map_folder = layout.counterpart(folder, top, annotations, name)
    images, maps = _by_name(folder, EXTENSIONS), _by_name(map_folder, (".png",))
    for files, partners, kind, partner in ((images, maps, "image", "label map"), (maps, images, "label map", "image")):
        alone = sorted(set(files) - set(partners))
        if alone:
            missing_in = annotations if kind == "image" else top
            if kind == "image" and (other := _of_another_format(map_folder, alone[0])):
                raise UserError(
                    f"the image {files[alone[0]]} has no label map of its name in {missing_in} but {other}; "
                    "expected PNG, since the compression of other formats changes labels"
                )
            raise UserError(
                f"the {kind} {files[alone[0]]} has no {partner} of its name in {missing_in} ({len(alone)} of "
                f"{len(files)} have none); add {'it' if len(alone) == 1 else 'them'} or remove the {kind}"
            )
    return mix([(path, maps[name]) for name, path in images.items()], folder)


def _of_another_format(folder: Path, name: str) -> str:
    """The path of a file of that name, with any extension, in a folder; empty if there is none."""
    inner, base = os.path.split(name)
    with contextlib.suppress(OSError), scan(os.path.join(folder, inner)) as entries:
        return min((entry.path for entry in entries if entry.name.startswith(f"{base}.")), default="")
    return ""


def _by_name(folder: Path, extensions: tuple[str, ...]) -> dict[str, str]:
    """Paths of the files below a folder, by their names relative to the folder without the extension."""
    named: dict[str, str] = {}
    walk = ImageWalk()
    for _, path in walk.images([folder] if is_folder(folder) else []):
        name, extension = os.path.splitext(os.path.relpath(path, folder))
        if extension.lower() not in extensions:
            continue
        if name in named:
            raise UserError(f"found {named[name]} and {path}; expected one file of that name: remove one of them")
        named[name] = path
    _check_found(bool(named) or extensions != EXTENSIONS, walk, folder, "")
    return named


def _check_found(found: bool, walk: ImageWalk, folder: Path, where: str) -> None:
    """Says what was not read.

    Raises:
      UserError: nothing was found that can be read.
    """
    if not found:
        others = walk.skipped.describe_kinds()
        advice = f" that can be read ({others} are not: {walk.skipped.advice(folder)})" if others else ""
        expected = " ".join(filter(None, (f"{', '.join(EXTENSIONS)} files", where)))
        raise UserError(f"{folder} holds no images{advice}; expected {expected}")
    walk.skipped.warn(folder)


def _warn_if_slow(folder: Path) -> contextlib.AbstractContextManager[None]:
    message = "listing the images of %s takes long; a data set of records (docs/data.md) needs no listing"
    return called_after(SLOW_S, logging.getLogger("beit_jax").warning, message, folder)
