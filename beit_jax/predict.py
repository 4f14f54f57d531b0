"""Predicts the classes of images with a classifier.

  python -m beit_jax.predict --checkpoint runs/finetune --images photos --out predictions.csv
  python -m beit_jax.predict --checkpoint runs/quickstart/finetune_seed0 --images one.jpg another.png --top 5
  python -m beit_jax.predict --checkpoint microsoft/beit-base-patch16-224 --images photos

The checkpoint is a classifier of this library or of any that `beit_jax.from_pretrained` reads. All images below a
folder are taken, with class folders or without, or those in FILE.npy [n, h, w, c]. They are prepared as for the
evaluation of the checkpoint.

The table has a row for each image, in the order of their names, with the columns file, class and probability. With
--top K, class_2 and probability_2 to class_K and probability_K follow. A file is named by its path relative to the
folder; of several --images, names begin with what was given. An image that cannot be read is named on stderr, and its
cells are empty; the exit status is 0 unless none can be read.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from beit_jax import cli, command, image_flags, path_flags
from beit_jax.data.sources.image_files import ImageFile
from beit_jax.errors import Mistakes, UserError, printable


def main(argv: Sequence[str]) -> None:
    """The command; see the module's docstring."""
    parser = cli.Parser(prog="python -m beit_jax.predict", description=__doc__, plugins=True, check=_check_command)
    image_flags.add(parser)
    parser.add_argument("--top", metavar="K", type=int, default=1, help="classes to name for each image, default 1")
    parser.add_argument("--out", metavar="FILE", default="", help="CSV file to write; by default the table is printed")
    args = parser.parse_args(argv)
    columns, rows = predict(args.checkpoint, args.images, args.top, args.batch_size)
    if args.out:
        _write(args.out, columns, rows)
    else:
        print(_format(columns, rows))


def _check_command(args: argparse.Namespace) -> None:
    mistakes = Mistakes()
    image_flags.check(args, mistakes)
    with mistakes.collected():
        if args.top < 1:
            raise UserError(f"found --top={args.top}, expected at least 1")
    with mistakes.collected():
        if args.out:
            path_flags.output("out", args.out, "file")
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

    files = image_flags.find(images)
    experiment, source = _open(opening.open_checkpoint(name), name, top)
    names = names_of(experiment.config.labels, experiment.config.model.num_classes)
    columns = ["file", *(f"{word}_{k}" for k in range(1, top + 1) for word in ("class", "probability"))]
    columns[1:3] = ["class", "probability"]
    rows, read = [[file.name] + [""] * 2 * top for file in files], 0
    for index, classes, probabilities in _most_likely(experiment, source, files, top, batch_size):
        cells = [(names[chosen], f"{value:.6f}") for chosen, value in zip(classes, probabilities, strict=True)]
        rows[index][1:] = [cell for pair in cells for cell in pair]
        read += 1
    image_flags.tell_unreadable(read, len(files), "their cells are empty")
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


def _most_likely(experiment: Any, source: Any, files: Sequence[ImageFile], top: int, batch_size: int) -> Any:
    """Index, classes `[k]` and probabilities `[k]` of each image that can be read."""
    import jax

    from beit_jax import image_batches
    from beit_jax.runtime.progress import progress_bar
    from beit_jax.training import sharding

    mesh, task = experiment.mesh, experiment.task
    params, ops = experiment.load_params(source), experiment.data.config.data.eval_ops

    def compute(params: Any, frozen: Any, images: Any) -> Any:
        probabilities, classes = jax.lax.top_k(task.probabilities(params, frozen, images), top)
        return classes, probabilities

    run = jax.jit(compute, out_shardings=sharding.replicated(mesh))
    batch_size = image_batches.divisible(batch_size, len(files), mesh)
    with progress_bar(len(files), 0) as progress:
        computed = image_batches.compute(
            lambda images: run(params, experiment.frozen, images), mesh, ops, files, batch_size, progress
        )
        for index, (classes, probabilities) in computed:
            yield from zip(index.tolist(), classes, probabilities, strict=True)


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
