"""Writes a folder of images as a few large files that tensorflow-datasets reads, for folders too large to list.

  python -m beit_jax.shard_dataset --images photos --out records
  python -m beit_jax.shard_dataset --images /nfs/photos --out /nfs/records --worker 3/8    the fourth of eight machines

The folder is one that data.source=folder:PATH reads: class folders or none, split folders or none, or images/ and
annotations/. Image files are stored as they are, in an order that depends on their names alone. Run the same command
again after a stop of any kind: finished shards are skipped. At its end it prints how to train on the result.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beit_jax import cli
from beit_jax.errors import UserError

EVALUATED = ("validation", "test")


def main(argv: Sequence[str]) -> None:
    """The door; see the module's docstring."""
    parser = cli.Parser(
        prog="python -m beit_jax.shard_dataset",
        usage="%(prog)s --images FOLDER --out DIR [--name NAME] [--shards N] [--worker I/N]",
        description=__doc__,
    )
    parser.add_argument("--images", required=True, metavar="FOLDER", help="folder of images")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of data sets: DIR/NAME/1.0.0 is written")
    parser.add_argument("--name", default="", help="of the data set; otherwise that of FOLDER")
    parser.add_argument("--shards", type=int, default=0, metavar="N", help="files of each split; otherwise by size")
    parser.add_argument("--worker", default="0/1", metavar="I/N", help="of N machines, this is number I, from 0 on")
    args = parser.parse_args(argv)
    images, out = cli.local_folder("images", args.images), cli.local_folder("out", args.out)
    if args.shards < 0:
        raise UserError(f"found --shards={args.shards}, expected a number of files, or 0 to have it chosen")
    index, count = cli.worker_index(args.worker)

    from beit_jax.data.records import writer

    name = args.name or re.sub(r"\W+", "_", images.resolve().name.lower(), flags=re.ASCII)
    print(f"looking at the files in {images}", flush=True)
    written = writer.write(str(images), out, name, args.shards, index, count)
    print(_report(written, name, out))


def _report(written: Any, name: str, out: Path) -> str:
    if written.missing:
        return (
            f"{written.place}: {written.missing} of {written.shards} shards are those of other workers and are not "
            "there yet; the last worker, or the command without --worker, completes the data set"
        )
    sizes = ", ".join(f"{number:,} images in {split}" for split, number in written.images.items())
    settings = [f"--config.data.source={name}", f"--config.data.data_dir={out.absolute()}"]
    held_out = [split for split in EVALUATED if split in written.images]
    whole, part = ("train", held_out[0]) if held_out else ("train[:90%]", "train[90%:]")
    settings += [f"--config.data.split={whole}", f"--config.data.eval_split={part}"]
    return f"{written.place}: {sizes}, {written.shards} shards\ntrain on it with {shlex.join(settings)}"


if __name__ == "__main__":
    cli.run(main)
