"""The images that a user names, files or whole folders, with the names that they have in a table."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from beit_jax.data.sources import layout, npy, tree
from beit_jax.data.sources.image_walk import EXTENSIONS, ImageWalk
from beit_jax.data.sources.names import as_text, class_name, relative_name
from beit_jax.errors import UserError
from beit_jax.runtime.paths import local_path
from beit_jax.runtime.urls import is_bucket


class ImageFile(NamedTuple):
    """An image.

    Attributes:
      path: of its file.
      name: in a table, see `names.as_text`.
      class_name: "" outside of class folders.
      row: of the array in a `.npy` file; -1: the file holds one image.
    """

    path: str
    name: str
    class_name: str = ""
    row: int = -1


def find_images(paths: Sequence[str]) -> list[ImageFile]:
    """The images that paths name, those of a folder in the order of their names.

    The name of an image is its path relative to the folder, with slashes. Of several paths, names begin with the path.

    Args:
      paths: of files, taken for images whatever they are called, and of folders, of which all images are taken that lie
        anywhere below; or of one `.npy` file, see `npy.open_images`. All are on a disk, or all in buckets.

    Raises:
      UserError: there is no such path, a folder holds no images, or an array none or has others beside it.
    """
    if len({is_bucket(path) for path in paths}) > 1:
        raise UserError(f"found images on a disk and in a bucket: {', '.join(paths)}; expected all in one of them")
    if arrays := [path for path in paths if path.endswith(npy.SUFFIX) and tree.is_file(path)]:
        if len(paths) > 1:
            raise UserError(f"{arrays[0]} holds images of its own; expected it alone, or files of images")
        file = str(local_path(arrays[0])) if is_bucket(arrays[0]) else arrays[0]
        base = as_text(os.path.basename(arrays[0]))
        return [ImageFile(file, f"{base}[{row}]", row=row) for row in range(npy.open_images(file).shape[0])]
    images = []
    for path in paths:
        prefix = f"{path.rstrip('/')}/" if len(paths) > 1 else ""
        if tree.is_folder(path):
            walk = ImageWalk()
            found = sorted((relative_name(file, path), file) for _, file in walk.images([path]))
            if not found:
                others = walk.skipped.describe_kinds()
                what = f" that can be read ({others} are not: {walk.skipped.advice(path)})" if others else ""
                raise UserError(
                    f"{path} holds no images{what}; expected {', '.join(EXTENSIONS)} files in it, at any depth"
                )
            walk.skipped.warn(path)
            classes = _class_names(path, [name for name, _ in found])
            images += [
                ImageFile(file, as_text(prefix + name), of_class)
                for (name, file), of_class in zip(found, classes, strict=True)
            ]
        elif tree.is_file(path):
            images.append(ImageFile(path, as_text(path if len(paths) > 1 else os.path.basename(path))))
        else:
            raise UserError(f"{path} does not exist; expected an image, or a folder of images")
    return images


def number_classes(images: Sequence[ImageFile]) -> tuple[list[int] | None, list[str] | None]:
    """The class of each image, from 0 on, and the names of all classes in order; None if an image has no class."""
    if not all(image.class_name for image in images):
        return None, None
    classes = sorted({image.class_name for image in images})
    numbers = {name: number for number, name in enumerate(classes)}
    return [numbers[image.class_name] for image in images], classes


def _class_names(folder: str, names: Sequence[str]) -> list[str]:
    """The class folders of images: the first on their way, or the second where the first are splits."""
    if layout.is_paired(folder):
        return [""] * len(names)
    ways = [name.split("/")[:-1] for name in names]
    first = {way[0] if way else "" for way in ways}
    depth = 1 if all(map(layout.is_split, first)) else 0
    return [class_name(way[depth]) if len(way) > depth else "" for way in ways]
