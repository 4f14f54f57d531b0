"""Predicts the classes of images with a classifier.

  python -m beit_jax.predict --checkpoint runs/finetune --images photos --out predictions.csv
  python -m beit_jax.predict --checkpoint runs/quickstart/finetune_seed0 --images one.jpg another.png --top 5
  python -m beit_jax.predict --checkpoint microsoft/beit-base-patch16-224 --images photos

The checkpoint is a classifier of this library or of any that `beit_jax.from_pretrained` reads. All images below a
folder are taken, with class folders or without. They are prepared as for the evaluation of the checkpoint.

The table has a row for each image, in the order of their names, with the columns file, class and probability. With
--top K, class_2 and probability_2 to class_K and probability_K follow. A file is named by its path relative to the
folder; of several --images, names begin with what was given. An image that cannot be read is named on stderr, and its
cells are empty; the exit status is 0 unless none can be read.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from beit_jax import cli, command, extras
from beit_jax.convert import locate
from beit_jax.data.sources import image_files
from beit_jax.errors import Mistakes, UserError, printable

BATCH_SIZE = 64


def main(argv: Sequence[str]) -> None:
    """The command; see the module's docstring."""
    parser = cli.Parser(prog="python -m beit_jax.predict", description=__doc__, plugins=True, check=_check_command)
    parser.add_argument("--checkpoint", metavar="NAME", required=True, help="a run, another folder, a file or a hub id")
    parser.add_argument("--images", metavar="PATH", nargs="+", required=True, help="images, or folders of images")
    parser.add_argument("--top", metavar="K", type=int, default=1, help="classes to name for each image, default 1")
    parser.add_argument("--out", metavar="FILE", default="", help="CSV file to write; by default the table is printed")
    parser.add_argument(
        "--batch_size", metavar="N", type=int, default=BATCH_SIZE, help=f"over all devices, default {BATCH_SIZE}"
    )
    args = parser.parse_args(argv)
    columns, rows = predict(args.checkpoint, args.images, args.top, args.batch_size)
    if args.out:
        _write(args.out, columns, rows)
    else:
        print(_format(columns, rows))


def _check_command(args: argparse.Namespace) -> None:
    mistakes = Mistakes()
    with mistakes.collected():
        locate.check_name(str(cli.local_folder("checkpoint", args.checkpoint)))
    with mistakes.collected():
        image_files.find_images([os.fspath(cli.local_folder("images", path)) for path in args.images])
    with mistakes.collected():
        if args.batch_size < 1 or args.top < 1:
            raise UserError(f"found --batch_size={args.batch_size} and --top={args.top}, expected at least 1")
    with mistakes.collected():
        cli.local_folder("out", args.out)
    with mistakes.collected():
        extras.check_installed("tensorflow", "tensorflow_datasets", "tqdm")
    mistakes.raise_all()


def predict(name: str, images: Sequence[str], top: int, batch_size: int) -> tuple[list[str], list[list[str]]]:
    """The table of what a classifier predicts.

    Args:
      name: of the checkpoint, see `convert.opening.open_checkpoint`.
      images: paths of files and folders.
      top: how many of the most likely classes are named.
      batch_size: images of a batch, over all devices; raised to a multiple of their number.

    Returns:
      Names of the columns, and the cells of a row for each image.

    Raises:
      UserError: the checkpoint is no classifier, there are no images, or none of them can be read.
    """
    from beit_jax.convert import opening
    from beit_jax.tasks.confusion import names_of

    files = image_files.find_images([os.fspath(cli.local_folder("images", path)) for path in images])
    experiment, source = _open(opening.open_checkpoint(name), name, top)
    names = names_of(experiment.config.labels, experiment.config.model.num_classes)
    columns = ["file", *(f"{word}_{k}" for k in range(1, top + 1) for word in ("class", "probability"))]
    columns[1:3] = ["class", "probability"]
    rows, read = [[file.name] + [""] * 2 * top for file in files], 0
    paths = [file.path for file in files]
    for index, classes, probabilities in _most_likely(experiment, source, paths, top, batch_size):
        cells = [(names[chosen], f"{value:.6f}") for chosen, value in zip(classes, probabilities, strict=True)]
        rows[index][1:] = [cell for pair in cells for cell in pair]
        read += 1
    if not read:
        raise UserError(f"none of the {len(files)} images can be read; expected JPEG, PNG, GIF, BMP or WebP files")
    if read < len(files):
        print(f"{len(files) - read} of {len(files)} images cannot be read; their cells are empty", file=sys.stderr)
    return columns, rows


def _open(opened: Any, name: str, top: int) -> tuple[Any, Any]:
    """The experiment of a classifier on the devices that are there, and the source of its parameters."""
    from beit_jax import config as configs
    from beit_jax.experiment import Experiment
    from beit_jax.tasks import create_task

    config = opened.config
    config.mesh = configs.defaults(config.task).mesh  # not of as many devices as the run had
    task = create_task(config)
    if not task.classifies:
        raise UserError(
            f"{name} is a model of the task {config.task!r}, which tells no classes of images; expected a classifier, "
            "such as one that configs/finetune.py trained"
        )
    if top > config.model.num_classes:
        raise UserError(f"--top={top}, but {name} knows {config.model.num_classes} classes; expected at most as many")
    return Experiment(config, opened.folder, task), opened.source


def _most_likely(experiment: Any, source: Any, paths: Sequence[str], top: int, batch_size: int) -> Any:
    """Index, classes `[k]` and probabilities `[k]` of each image that can be read."""
    import jax
    import numpy as np

    from beit_jax.data import pipeline
    from beit_jax.runtime.progress import progress_bar
    from beit_jax.training import sharding

    mesh, task = experiment.mesh, experiment.task
    batch_size = -(-min(batch_size, len(paths)) // mesh.size) * mesh.size
    params = experiment.load_params(source)

    def compute(params: Any, frozen: Any, batch: Any) -> Any:
        return jax.lax.top_k(task.probabilities(params, frozen, batch["image"]), top)

    with progress_bar(len(paths), 0) as progress, jax.set_mesh(mesh):
        run = jax.jit(compute, out_shardings=sharding.replicated(mesh))
        unreadable = _Unreadable(progress)
        for batch in pipeline.make_predict(
            experiment.data.config.data, paths, batch_size=batch_size, unreadable=unreadable
        ):
            outputs = run(params, experiment.frozen, sharding.to_devices(mesh, {"image": batch["image"]}))
            probabilities, classes = jax.device_get(outputs)
            for row in np.flatnonzero(batch["valid"]):
                yield int(batch["index"][row]), classes[row], probabilities[row]


class _Unreadable:
    """Names images that cannot be read on stderr, above the progress bar, however many they are."""

    def __init__(self, progress: Any):
        self._progress = progress

    def restart(self) -> None:
        """See `EvalSet`."""

    def add(self, seen: int, names: list[bytes], faults: list[bytes]) -> None:
        """See `EvalSet`."""
        self._progress.update(seen)
        for name, fault in zip(names, faults, strict=True):
            words = f"cannot read {printable(name.decode('utf-8', 'backslashreplace'))}: {fault.decode()}"
            self._progress.write(words, file=sys.stderr)

    def check(self, is_sample: bool = True) -> None:
        """See `EvalSet`."""


def _format(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table for a terminal."""
    lines = [columns, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def _write(out: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from beit_jax.runtime.csv_table import write_csv

    try:
        write_csv(cli.local_folder("out", out), columns, rows)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror or error}; choose another file") from error
    print(f"{out}: {len(rows):,} images", file=sys.stderr)


if __name__ == "__main__":
    command.run(main)
