"""Stores a folder of images as a few large files that tensorflow-datasets reads, for folders too large to list.

  python -m beit_jax.shard_dataset --images photos --out records
  python -m beit_jax.shard_dataset --images /nfs/photos --out /nfs/records --worker 3/8    the fourth of eight machines
  python -m beit_jax.shard_dataset --images /nfs/photos --out /nfs/records --beam_runner FlinkRunner \\
    --beam_option flink_master=localhost:8081                               by Apache Beam, which starts the workers

The folder is one that data.source=folder:PATH reads: with or without class folders, with or without split folders, or
with the folders images/ and annotations/. Image files are stored unchanged, in an order that depends on their names
alone. If the command was interrupted, run it again: finished shards are skipped. At the end it prints the settings for
training on the result.
"""

import argparse
import functools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beit_jax import cli, command, extras
from beit_jax.data.sources.folder_checks import check_folder, check_outside
from beit_jax.errors import Mistakes, UserError
from beit_jax.runtime.bucket import check_access
from beit_jax.runtime.urls import is_bucket

EVAL_SPLITS = ("validation", "test")


def main(argv: Sequence[str]) -> None:
    """The entry point; see the module's docstring."""
    parser = cli.Parser(
        prog="python -m beit_jax.shard_dataset",
        usage="%(prog)s --images FOLDER --out DIR [--name NAME] [--shards N] [--worker I/N | --beam_runner RUNNER]",
        description=__doc__,
        check=_check_command,
    )
    parser.add_argument("--images", required=True, metavar="FOLDER", help="folder of images")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of data sets; DIR/NAME/1.0.0 is written")
    parser.add_argument(
        "--name", default="", help="name of the data set (default: that of FOLDER, lower-case, with _ for other signs)"
    )
    parser.add_argument("--shards", type=int, default=0, metavar="N", help="files of each split (default: by size)")
    parser.add_argument("--worker", default="0/1", metavar="I/N", help="this is machine number I of N, from 0 on")
    parser.add_argument(
        "--beam_runner", default="", metavar="RUNNER", help="write by Apache Beam: DirectRunner, DataflowRunner, ..."
    )
    parser.add_argument(
        "--beam_option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of Beam or the runner, such as direct_num_workers=2; may be given several times",
    )
    args = parser.parse_args(argv)
    images, out = cli.local_folder("images", args.images), cli.local_folder("out", args.out)
    index, count = cli.worker_index(args.worker)

    from beit_jax.data.records import shard_writer

    name, write = args.name or _name_of(images), shard_writer.write_shards
    if args.beam_runner:
        from beit_jax.data.records import beam_shards

        options = beam_shards.parse_options(args.beam_runner, args.beam_option)
        write = functools.partial(beam_shards.write_shards, options=options)
    print(f"listing the files in {images}, for the data set {name}", flush=True)
    result = shard_writer.write_dataset(str(images), out, name, args.shards, index, count, write)
    print(_report(result, name, out))


def _name_of(images: Path) -> str:
    """The name of a data set after its folder.

    Raises:
      UserError: the folder's name would lose more than blanks and the like, or begins with a digit.
    """
    folder = images.resolve().name
    name = re.sub(r"[\W_]+", "_", folder.lower()).strip("_")
    if not (folder.isascii() and name.isidentifier()):
        raise UserError(
            f"the folder {folder!r} gives the data set no name, which has lower-case letters a to z, digits and _, and "
            "begins with a letter; give one with --name"
        )
    return name


def _check_command(args: argparse.Namespace) -> None:
    mistakes = Mistakes()
    with mistakes.collected():
        images = cli.local_folder("images", args.images)
        check_folder(str(images))
        name = args.name or _name_of(images)
        out = cli.local_folder("out", args.out)
        for folder in (out, out / name):
            check_outside("out", folder, str(images))
    with mistakes.collected():
        out = cli.required_folder("out", args.out, "records")
        if is_bucket(out):
            check_access("--out=", str(out), writes=True)
    with mistakes.collected():
        if args.shards < 0:
            raise UserError(f"found --shards={args.shards}, expected a number of files, or 0 for the default")
    with mistakes.collected():
        cli.worker_index(args.worker)
    with mistakes.collected():
        extras.check_installed("tensorflow", "tensorflow_datasets", "tqdm", *["apache_beam"] * bool(args.beam_runner))
    with mistakes.collected():
        if args.beam_runner and cli.worker_index(args.worker) != (0, 1):
            raise UserError("found --worker and --beam_runner; expected one: Beam's runner starts the workers")
        if args.beam_option and not args.beam_runner:
            raise UserError("found --beam_option without --beam_runner; expected both")
    mistakes.raise_all()


def _report(result: Any, name: str, out: Path) -> str:
    if result.missing:
        return (
            f"{result.folder}: {result.missing} of {result.shards} shards belong to other workers and are not there "
            "yet; the last worker, or the command without --worker, completes the data set"
        )
    sizes = ", ".join(f"{number:,} images in {split}" for split, number in result.images.items())
    settings = [f"--config.data.source={name}", f"--config.data.data_dir={out.absolute()}"]
    eval_splits = [split for split in EVAL_SPLITS if split in result.images]
    train, evaluation = ("train", eval_splits[0]) if eval_splits else ("train[:90%]", "train[90%:]")
    settings += [f"--config.data.split={train}", f"--config.data.eval_split={evaluation}"]
    return f"{result.folder}: {sizes}, {result.shards} shards\ntrain on it with {shlex.join(settings)}"


if __name__ == "__main__":
    command.run(main)
