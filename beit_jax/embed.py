"""Computes features of images with the encoder of a checkpoint.

  python -m beit_jax.embed --checkpoint runs/pretrain --images photos --out features.npz
  python -m beit_jax.embed --checkpoint microsoft/beit-large-patch16-224 --images photos --out f.npz --layers 8,16
  python -m beit_jax.embed --checkpoint runs/pretrain --images photos --out features --kind patches

The checkpoint is any with a vision transformer that `beit_jax.from_pretrained` reads. All images below a folder are
taken, or those in FILE.npy [n, h, w, c], and prepared as for the evaluation of the checkpoint. Features are the outputs
of blocks, without the final norm.

Which layer: the blocks of BEiT count from 1. Of a pre-trained BEiT those in the middle serve best; a linear classifier
on the last one of the published models has about a third of the accuracy. Without --layers, it is the block at two
thirds of the depth: 8 of 12, 16 of 24. Of a fine-tuned classifier, the last layer is the natural choice: --layers 12.

--out FILE.npz has features (float32 [n, f]; [n, l, f] of several layers; [n, gh, gw, d] of patches), names (paths
relative to the folder) and, where images lie in class folders, labels (int32) and classes (names). --out FOLDER has the
same in shards, features-00000.npy, names-00000.npy and labels-00000.npy: for what does not fit into memory. An image
that cannot be read is named on stderr and left out; the exit status is 0 unless none can be read.

Run the same command again after a stop of any kind: complete shards are kept (of FILE.npz, in FILE.npz.parts), and the
result is the same to the last bit.
"""

import argparse
import functools
import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from beit_jax import cli, command, image_flags, path_flags
from beit_jax.data.sources.image_files import ImageFile, number_classes
from beit_jax.errors import Mistakes, UserError
from beit_jax.models.image_size import in_words, simplest
from beit_jax.models.variants import FEATURE_KINDS

SHARD_SIZE = 10_000


def main(argv: Sequence[str]) -> None:
    """The command; see the module's docstring."""
    parser = cli.Parser(prog="python -m beit_jax.embed", description=__doc__, plugins=True, check=_check_command)
    image_flags.add(parser)
    parser.add_argument("--out", metavar="PATH", required=True, help="FILE.npz, or a folder of shards")
    parser.add_argument(
        "--layers", metavar="N[,N...]", default="", help="blocks, counted from 1, default the one at two thirds"
    )
    parser.add_argument(
        "--kind",
        default="mean",
        choices=FEATURE_KINDS,
        help="mean of the patches (default), class token, both side by side, or maps of patches",
    )
    parser.add_argument(
        "--image_size",
        metavar="SIZE",
        type=image_flags.parse_size,
        help="N or HEIGHTxWIDTH, default that of the checkpoint",
    )
    parser.add_argument(
        "--shard_size", metavar="N", type=int, default=SHARD_SIZE, help=f"images of a shard, default {SHARD_SIZE:,}"
    )
    print(embed(parser.parse_args(argv)))


def _check_command(args: argparse.Namespace) -> None:
    mistakes = Mistakes()
    image_flags.check(args, mistakes)
    with mistakes.collected():
        _layers(args.layers)
    with mistakes.collected():
        if args.shard_size < 1:
            raise UserError(f"found --shard_size={args.shard_size}, expected at least 1")
    with mistakes.collected():
        _check_out(args.out)
    mistakes.raise_all()


def _check_out(out: str) -> None:
    path = cli.local_folder("out", out)
    if path.suffix != ".npz" and (path.suffix == ".npy" or path.is_file()):
        raise UserError(f"--out={out}; expected a file that ends in .npz, or a folder")
    path_flags.output("out", out, "file" if path.suffix == ".npz" else "folder")


def _layers(text: str) -> int | tuple[int, ...] | None:
    """One number has no axis of layers."""
    try:
        numbers = tuple(map(int, text.split(","))) if text else ()
    except ValueError:
        numbers = (0,)
    if any(number < 1 for number in numbers):
        raise UserError(f"found --layers={text}; expected numbers from 1 on, such as 8 or 4,8,12")
    return (numbers if len(numbers) > 1 else numbers[0]) if numbers else None


def embed(args: argparse.Namespace) -> str:
    """Computes what is missing of the features.

    Args:
      args: the flags.

    Returns:
      What is there now, in words.

    Raises:
      UserError: the checkpoint has no such encoder or layer, no image can be read, `--out` has the features of
        something else or cannot be written.
    """
    from beit_jax.feature_files import FeatureFolder
    from beit_jax.training import memory_check

    out, files = cli.local_folder("out", args.out), image_flags.find(args.images)
    labels, classes = number_classes(files)
    to_file = out.suffix == ".npz"
    folder = FeatureFolder(out.with_name(f"{out.name}.parts") if to_file else out)
    extractor = _Extractor(args)
    key = extractor.key | {"images": _digest(args.images, files), "shard_size": args.shard_size}
    folder.claim(key, classes)
    shards = range(-(-len(files) // args.shard_size))
    with memory_check.explained(lambda: f"lower --batch_size={args.batch_size}; complete shards are kept"):
        read = _write_missing(folder, shards, files, labels, extractor, args)
    try:
        image_flags.tell_unreadable(read, len(files), "they are left out")
    except UserError:
        folder.remove()
        raise
    if to_file:
        folder.join(out, len(shards), labelled=classes is not None)
    labelled = f", {len(classes)} classes" if classes is not None else ""
    return f"{out}: {extractor.described} of {read:,} images{labelled}"


def _digest(paths: Sequence[str], files: Sequence[ImageFile]) -> str:
    """How many images there are, and a hash of the paths given, and of their names and classes, in order."""
    given = [str(cli.local_folder("images", path).absolute()) for path in paths]
    named = json.dumps([given, [file[1:] for file in files]]).encode()
    return f"{len(files):,} with the paths {hashlib.blake2b(named, digest_size=8).hexdigest()}"


def _write_missing(
    folder: Any,
    shards: range,
    files: Sequence[ImageFile],
    labels: Sequence[int] | None,
    extractor: "_Extractor",
    args: argparse.Namespace,
) -> int:
    """Writes the shards that are not there; returns the number of images in all of them."""
    from beit_jax import image_batches
    from beit_jax.feature_files import CutStream, Described
    from beit_jax.runtime.progress import progress_bar

    size, read = args.shard_size, {shard: folder.rows(shard) for shard in shards}
    bounds = {shard: (shard * size, min((shard + 1) * size, len(files))) for shard in shards}
    done = sum(bounds[shard][1] - bounds[shard][0] for shard in shards if read[shard] is not None)
    batch_size = image_batches.divisible(args.batch_size, len(files), extractor.mesh)
    stream = None
    with progress_bar(len(files), done) as progress:
        for shard in shards:
            start, stop = bounds[shard]
            if read[shard] is not None:
                stream = None
                continue
            if stream is None:  # shards that follow each other are cut out of one stream
                # Each image is in the same row of a batch, whichever shard is the first one: so are its last bits.
                first = start - start % batch_size
                progress.update(first - start)
                batches = image_batches.compute(
                    extractor, extractor.mesh, extractor.ops, files[first:], batch_size, progress
                )
                stream = CutStream((index + first, features) for index, features in batches)
                for _ in stream.until(start):
                    pass
            described = Described([file.name for file in files[start:stop]], labels and labels[start:stop])
            cut = ((index - start, features) for index, features in stream.until(stop))
            read[shard] = folder.write(shard, extractor.shape, cut, described)
    return sum(read.values())


class _Extractor:
    """The encoder of a checkpoint on all devices.

    Attributes:
      mesh: of the devices.
      ops: that prepare images.
      shape: of the features of an image.
      key: what the features of an image depend on.
      described: what they are, in words.
    """

    def __init__(self, args: argparse.Namespace):
        import jax

        from beit_jax import encoder_features
        from beit_jax.convert import preprocessing
        from beit_jax.training import params as trees
        from beit_jax.training import sharding
        from beit_jax.visualize.loading import load_encoder

        loaded = load_encoder(args.checkpoint, args.image_size)
        encoder, section, size = loaded.encoder, loaded.preprocess, simplest(*loaded.image_size)
        layers = encoder_features.chosen_layers(_layers(args.layers) or -(-2 * encoder.depth // 3), encoder.depth)
        if size != section.size:
            section = preprocessing.at_size(section, size)
        self.ops = f"{preprocessing.resized_ops(section)}|{preprocessing.normalize_op(section)}|keep('image')"
        self.mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
        one = functools.partial(encoder_features.compute, encoder=encoder, kind=args.kind, layers=layers)
        self._run = jax.jit(one, out_shardings=sharding.replicated(self.mesh))
        self._params = jax.device_put(loaded.params, sharding.replicated(self.mesh))
        image = jax.ShapeDtypeStruct((1, *loaded.image_size, section.channels), "float32")
        self.shape = jax.eval_shape(one, loaded.params, image).shape[1:]
        which = ", ".join(map(str, layers)) if isinstance(layers, tuple) else layers
        self.described = f"{args.kind} of layer {which} of {encoder.depth}"
        self.key = dict(
            checkpoint=args.checkpoint,
            parameters=trees.digest(loaded.params),
            layers=list(layers) if isinstance(layers, tuple) else layers,
            kind=args.kind,
            ops=self.ops,
        )
        numbers = " x ".join(map(str, self.shape))
        print(
            f"{self.described}: {numbers} numbers for an image of {in_words(loaded.image_size)} pixels", file=sys.stderr
        )

    def __call__(self, images: Any) -> Any:
        return self._run(self._params, images)


if __name__ == "__main__":
    command.run(main)
