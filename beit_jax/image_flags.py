"""Flags of the commands that compute with a checkpoint on images of a user, and their checks; imports no JAX."""

import argparse
import os
import sys
from collections.abc import Sequence

from beit_jax import cli, extras
from beit_jax.convert import locate
from beit_jax.data.sources import image_files
from beit_jax.errors import Mistakes, UserError

BATCH_SIZE = 64


def add(parser: argparse.ArgumentParser) -> None:
    """Adds `--checkpoint`, `--images` and `--batch_size`."""
    parser.add_argument("--checkpoint", metavar="NAME", required=True, help="a run, another folder, a file or a hub id")
    parser.add_argument(
        "--images",
        metavar="PATH",
        nargs="+",
        required=True,
        help="images, or folders of them; or FILE.npy [n, h, w, c]",
    )
    parser.add_argument(
        "--batch_size", metavar="N", type=int, default=BATCH_SIZE, help=f"over all devices, default {BATCH_SIZE}"
    )


def parse_size(text: str) -> tuple[int, int]:
    """Height and width out of `H` or `HxW`, for argparse."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a side in pixels or HEIGHTxWIDTH, such as 224x320")
    return int(sides[0]), int(sides[-1])


def check(args: argparse.Namespace, mistakes: Mistakes) -> None:
    """Adds everything that is wrong with these flags, and libraries that are missing, to the mistakes."""
    with mistakes.collected():
        locate.check_name(str(cli.local_folder("checkpoint", args.checkpoint)))
    with mistakes.collected():
        find(args.images)
    with mistakes.collected():
        if args.batch_size < 1:
            raise UserError(f"found --batch_size={args.batch_size}, expected at least 1")
    with mistakes.collected():
        extras.check_installed("tensorflow", "tensorflow_datasets", "tqdm")


def find(paths: Sequence[str]) -> list[image_files.ImageFile]:
    """The images that `--images` names.

    Raises:
      UserError: see `image_files.find_images`.
    """
    return image_files.find_images([os.fspath(cli.local_folder("images", path)) for path in paths])


def tell_unreadable(read: int, found: int, consequence: str) -> None:
    """Says on stderr how many of the images could not be read, if any, and what that means for the result.

    Raises:
      UserError: none could be read.
    """
    if not read:
        raise UserError(f"none of the {found} images can be read; expected JPEG, PNG, GIF, BMP or WebP files")
    if read < found:
        print(f"{found - read} of {found} images cannot be read; {consequence}", file=sys.stderr)
