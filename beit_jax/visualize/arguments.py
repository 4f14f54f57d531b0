"""What the commands that show one image check before they import JAX and matplotlib."""

import argparse

from beit_jax import cli, extras, image_flags, path_flags
from beit_jax.convert.locate import check_name
from beit_jax.errors import Mistakes
from beit_jax.visualize import images


def check_arguments(settings: argparse.Namespace) -> None:
    """Checks that the files are there; a checkpoint may be on the hub.

    Raises:
      UserError: everything that is wrong with `--image`, `--images`, `--out`, `--checkpoint` and `--tokenizer`.
    """
    mistakes = Mistakes()
    with mistakes.collected():
        if settings.image and not settings.image.endswith(".npy"):  # which only a model of other channels takes
            images.read_picture(settings.image)
    with mistakes.collected():
        if paths := vars(settings).get("images"):
            image_flags.find(paths)
    with mistakes.collected():
        path_flags.output("out", settings.out, "folder")
    for flag in ("checkpoint", "tokenizer"):
        name = vars(settings).get(flag, "")
        with mistakes.collected(f"--{flag}: "):
            if name:
                cli.local_folder(flag, name)
                check_name(name)
    with mistakes.collected():
        extras.check_installed("matplotlib")
    mistakes.raise_all()
