"""Makes arrays of a folder of TIFF files, for data.source=npy:DIR: TIFF is not read in training.

  python -m beit_jax.tiff_to_arrays --images tiffs --out arrays

The files are grey, RGB or of many bands, as channels or as pages, of 8 or 16 bits or float32, and all of one size. The
folder may have a folder for each class, and train/ and validation/ around them. At the end the command prints the
settings for training on the result.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from beit_jax import cli, command, extras, path_flags
from beit_jax.data.records.tiff_arrays import Written, find_tiffs, write_arrays
from beit_jax.data.sources.folder_checks import check_outside
from beit_jax.data.sources.layout import describe_missing
from beit_jax.errors import Mistakes, UserError


def main(argv: Sequence[str]) -> None:
    """The entry point; see the module's docstring."""
    parser = cli.Parser(
        prog="python -m beit_jax.tiff_to_arrays",
        usage="%(prog)s --images FOLDER --out DIR",
        description=__doc__,
        check=_check_command,
    )
    parser.add_argument("--images", required=True, metavar="FOLDER", help="folder of TIFF files")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the arrays, which must not exist")
    args = parser.parse_args(argv)
    images, out = cli.local_folder("images", args.images), cli.local_folder("out", args.out)

    from beit_jax.runtime.progress import progress_bar

    files = find_tiffs(str(images))
    with progress_bar(len(files), 0) as progress:
        written = write_arrays(files, out, progress.update)
    print(_report(written, out))


def _check_command(args: argparse.Namespace) -> None:
    mistakes = Mistakes()
    with mistakes.collected():
        images = path_flags.input_folder("images", args.images)
        if not images.is_dir():
            raise UserError(describe_missing(str(images)))
        out = cli.local_folder("out", args.out)
        check_outside("out", out, str(images))
        find_tiffs(str(images))
    with mistakes.collected():
        cli.required_folder("out", args.out, "arrays")
        out = path_flags.output("out", args.out, "folder")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"--out={out} is there already; choose another folder")
    with mistakes.collected():
        extras.check_installed("tifffile", "tqdm")
    mistakes.raise_all()


def _report(written: Written, out: Path) -> str:
    height, width, channels = written.shape
    counts = ", ".join(f"{number:,} images in {split}" for split, number in written.counts.items())
    settings = f"data=npy:{out}" + (f",channels={channels}" if channels != 3 else "")
    classes = f", {written.classes} classes" if written.classes else ""
    return (
        f"{out}: {counts}, {height} x {width} pixels, {channels} channels, {written.dtype}{classes}\n"
        f"train on it with --config configs/NAME.py:{settings}"
    )


if __name__ == "__main__":
    command.run(main)
