"""The images that a user names, files or whole folders, with the names that they have in a table."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from beit_jax.data.sources.image_walk import EXTENSIONS, ImageWalk
from beit_jax.data.sources.names import as_text, relative_name
from beit_jax.errors import UserError


class ImageFile(NamedTuple):
    """The path of an image, and its name in a table (see `names.as_text`)."""

    path: str
    name: str


def find_images(paths: Sequence[str]) -> list[ImageFile]:
    """The images that paths name, those of a folder in the order of their names.

    The name of an image is its path relative to the folder, with slashes. Of several paths, names begin with the path.

    Args:
      paths: of files, taken for images whatever they are called, and of folders, of which all images are taken that lie
        anywhere below.

    Raises:
      UserError: there is no such path, or a folder holds no images.
    """
    images = []
    for path in paths:
        prefix = f"{path.rstrip('/')}/" if len(paths) > 1 else ""
        if Path(path).is_dir():
            walk = ImageWalk()
            found = sorted((relative_name(file, path), file) for _, file in walk.images([path]))
            if not found:
                raise UserError(f"{path} holds no images; expected {', '.join(EXTENSIONS)} files in it, at any depth")
            walk.skipped.warn(path)
            images += [ImageFile(file, as_text(prefix + name)) for name, file in found]
        elif Path(path).is_file():
            images.append(ImageFile(path, as_text(path if len(paths) > 1 else os.path.basename(path))))
        else:
            raise UserError(f"{path} does not exist; expected an image, or a folder of images")
    return images
