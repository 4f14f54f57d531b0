"""Checks of a folder of images that need no complete listing, made before libraries are imported."""

from pathlib import Path

from beit_jax.data.sources import layout
from beit_jax.data.sources.image_walk import EXTENSIONS, ImageWalk, holds_images
from beit_jax.data.sources.slices import parse_split
from beit_jax.data.sources.tree import is_folder, path_at
from beit_jax.errors import UserError

SHOWN = 5  # class folders of a message


def check_folder(root: str) -> None:
    """
    Raises:
      UserError: there is no such folder, no image below it, or it cannot be told which folders are splits.
    """
    if not is_folder(root):
        raise UserError(layout.describe_missing(root))
    if not holds_images(root):
        walk = ImageWalk()
        next(walk.images([root]), None)
        others = walk.skipped.describe_kinds()
        found = f" that can be read ({others} are not: {walk.skipped.advice(root)})" if others else ""
        raise UserError(
            f"{root} holds no images{found}; expected {', '.join(EXTENSIONS)} files, in class folders or not"
        )
    layout.list_splits(root)


def check_split(root: str, split: str) -> None:
    """
    Raises:
      UserError: the folder has no such split.
    """
    paired = layout.find_paired(root)
    layout.split_folder(paired[0] if paired else path_at(root), parse_split(split).name)


def check_classes(root: str, split: str) -> None:
    """Checks that a folder has classes to tell apart, for tasks that do so.

    Raises:
      UserError: there are fewer than two class folders, the split has none, or see `count_classes` and
        `check_not_empty`.
    """
    check_not_empty(root, split)
    folder, reference = layout.split_folder(path_at(root), parse_split(split).name)
    for part in (reference, folder):
        if (classes := _with_images(part)) and ImageWalk().enter(part).images:
            raise UserError(
                f"{part} has images beside the class folder {classes[0].name}; move them into class folders "
                "(tokenizers and pre-training read them as they are)"
            )
    count = count_classes(root, split)
    if count and not _with_images(folder):
        raise UserError(
            f"{folder} has no class folders, as {reference} has, and so no labels; move its images into class folders, "
            "or choose another split"
        )
    if count < 2:
        found = "one class folder" if count else "no class folders, and so no labels"
        raise UserError(f"{reference} has {found}; expected at least two folders, each with the images of a class")


def count_classes(root: str, split: str) -> int:
    """The number of class folders with images that the classes of a split are numbered by.

    Raises:
      UserError: one folder holds everything; says which folder to give instead.
    """
    _, reference = layout.split_folder(path_at(root), parse_split(split).name)
    classes = _with_images(reference)
    inner, folders = reference, classes
    while len(folders) == 1:
        inner, folders = folders[0], _with_images(folders[0])
    if len(classes) == 1 and folders:
        names = ", ".join(path.name for path in folders[:SHOWN]) + (", ..." if len(folders) > SHOWN else "")
        give = f"give folder:{inner}, or " if reference == path_at(root) else ""
        raise UserError(
            f"{reference} has one class folder, {classes[0].name}/, and all others lie in it; if the classes are "
            f"{names}, {give}move them into {reference}"
        )
    return len(classes)


def check_not_empty(root: str, split: str) -> None:
    """Checks the class folders by which the classes of a split are numbered.

    A folder with nothing but tables and texts, or runs, is none; a warning of the listing names it.

    Raises:
      UserError: one holds no images, so that its class would be missing, or two are the same folder.
    """
    _, reference = layout.split_folder(path_at(root), parse_split(split).name)
    empty, real = [], {}
    for folder in layout.class_folders(reference).values():
        if (same := real.setdefault(folder.resolve(), folder)) != folder:
            raise UserError(f"the class folders {same} and {folder} are one folder; remove the link")
        if holds_images(folder):
            continue
        walk = ImageWalk()
        next(walk.images([folder]), None)
        if not walk.skipped.is_no_class():
            empty.append(f"{folder} ({walk.skipped.describe_kinds() or 'it is empty'})")
    if empty and len(empty) < len(real):
        several = len(empty) > 1
        more = f" and {len(empty) - SHOWN} others" if len(empty) > SHOWN else ""
        raise UserError(
            f"the class folder{'s' * several} {', '.join(empty[:SHOWN])}{more} hold{'s' * (not several)} no images "
            "that can be read, so that the classes would be fewer; add or convert images, or remove the folder"
        )


def check_outside(flag: str, path: Path, root: str) -> None:
    """Checks that a command does not write into the folder of the images.

    Args:
      flag: that names the path.
      path: where the command writes.
      root: the folder of the images.

    Raises:
      UserError: it lies there: what is written would be read as images.
    """
    if path.resolve().is_relative_to(path_at(root).resolve()):
        raise UserError(
            f"--{flag}={path} lies in the folder of the images, {root}, and would be read with them; choose another"
        )


def _with_images(folder: Path) -> list[Path]:
    return [path for path in layout.class_folders(folder).values() if holds_images(path)]
