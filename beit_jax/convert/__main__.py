"""Converts checkpoints between this library, Hugging Face, the official code, timm, and OpenAI's dVAE.

  python -m beit_jax.convert beit_base_patch16_224_pt22k.pth runs/pt22k --to beit_jax      then --config.init_from=...
  python -m beit_jax.convert microsoft/beit-base-patch16-224 out --to timm
  python -m beit_jax.convert runs/finetune hf_model --to hf --verify
  python -m beit_jax.convert narrow.pth runs/narrow --to beit_jax --heads 4
  python -m beit_jax.convert fine_tuned.pth runs/v2 --to beit_jax --statistics imagenet      of the pixels it expects
  python -m beit_jax.convert dalle_folder runs/dalle --to beit_jax      a folder with encoder.pkl and decoder.pkl
  python -m beit_jax.convert openai/clip-vit-base-patch16 runs/clip --to beit_jax --teacher clip      a frozen teacher
  python -m beit_jax.convert --check vqkd.pth image.JPEG      the tokens of an image, to compare with published ones

SRC is a file, a folder or a hub id, DST a folder that does not exist yet. The layout of SRC is detected. Files of
PyTorch are read without running what is in them. --verify runs both libraries on random images and prints the largest
difference of each layer; above 1e-4 it is an error. The exit status is 0 only if every tensor of SRC was converted,
or named on stderr as one that the model does not read. What SRC does not state and was assumed is named there, too.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from beit_jax import cli, command, extras
from beit_jax.config import statistics
from beit_jax.convert import locate
from beit_jax.errors import Mistakes, UserError
from beit_jax.runtime.checkpoint_folder import holds_checkpoint
from beit_jax.runtime.paths import as_path

TOLERANCE = 1e-4


def main(argv: Sequence[str]) -> None:
    """The command; see the module's docstring."""
    parser = cli.Parser(
        prog="python -m beit_jax.convert",
        usage="%(prog)s SRC DST --to FORMAT [--heads N] [--num_classes N]\n"
        "                                   [--statistics S] [--verify]\n"
        "       %(prog)s SRC DST --to beit_jax --teacher {clip,dino} [--gelu {quick,exact}] [--heads N]\n"
        "       %(prog)s --check SRC IMAGE [--heads N]",
        description=__doc__,
        plugins=True,
        check=_check_command,
    )
    parser.add_argument("source", metavar="SRC", help="file, folder or hub id")
    parser.add_argument("target", metavar="DST", help="folder to write, which must not exist; of --check an image")
    formats = ("beit_jax", "safetensors", "hf", "unilm", "timm", "data2vec", "dalle")
    parser.add_argument("--to", choices=formats, help="format of DST")
    parser.add_argument("--check", action="store_true", help="print the tokens of an image, and write nothing")
    parser.add_argument("--heads", metavar="N", type=int, help="attention heads, where SRC does not state them")
    parser.add_argument("--num_classes", metavar="N", type=int, help="of a new head, for an encoder without one")
    parser.add_argument("--statistics", metavar="S", help="of pixels, in place of those of SRC: imagenet, ...")
    parser.add_argument("--teacher", choices=("clip", "dino"), help="SRC is such a teacher, and no BEiT")
    parser.add_argument("--gelu", choices=("quick", "exact"), help="of a CLIP, where SRC does not state it")
    parser.add_argument("--verify", action="store_true", help="compare with the other library; needs torch")
    args = parser.parse_args(argv)
    if args.check:
        print_tokens(args.source, args.target, args.heads)
        return
    target = str(cli.local_folder("target", args.target))
    if args.teacher:
        convert_teacher(args.source, target, args.teacher, gelu=args.gelu or "auto", heads=args.heads)
        return
    given = {name: getattr(args, name) for name in ("heads", "num_classes", "statistics")}
    convert(args.source, target, args.to, verify=args.verify, **given)


def _check_command(args: argparse.Namespace) -> None:
    mistakes = Mistakes()
    with mistakes.collected():
        locate.check_name(args.source)
    if args.check and (args.to or args.teacher or args.verify):
        mistakes.add("found --check with --to, --teacher or --verify; expected a tokenizer and an image alone")
    if not args.check and not args.to:
        mistakes.add("--to is missing; expected the format of DST, such as --to beit_jax")
    if args.to and not args.check:
        with mistakes.collected():
            locate.check_target(cli.local_folder("target", args.target), args.to)
    for name in ("heads", "num_classes"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            mistakes.add(f"found --{name}={getattr(args, name)}, expected at least 1")
    if args.gelu and args.teacher != "clip":
        mistakes.add("found --gelu without --teacher clip; expected it for a CLIP alone")
    if args.statistics is not None:
        with mistakes.collected():
            statistics.KEY.validate("--statistics", args.statistics)
    for name in ("num_classes", "statistics", "verify"):
        if args.teacher and getattr(args, name):
            mistakes.add(f"found --{name} with --teacher; expected it for a BEiT alone")
    if args.teacher and args.to != "beit_jax":
        mistakes.add(f"found --to {args.to} with --teacher; expected --to beit_jax: no other library is written")
    with mistakes.collected():
        extras.check_installed(*(("torch",) if args.verify else ()))
    mistakes.raise_all()


def convert(source: str, target: str, to: str, *, verify: bool, num_classes: int | None = None, **given: Any) -> None:
    """Reads `source`, compares it with its own library if `verify`, and writes `target`.

    `num_classes` and what else is given are those of `from_pretrained`.

    Raises:
      UserError: see `from_pretrained` and `save_pretrained`; or the two libraries differ.
    """
    from beit_jax.convert.pretrained import from_pretrained
    from beit_jax.convert.saving import save_pretrained
    from beit_jax.training.params import flatten

    locate.check_target(as_path(target), to)
    loaded = from_pretrained(source, num_classes=num_classes, **given)
    if verify:
        _verify(loaded, source, is_new_head=num_classes is not None)
    save_pretrained(target, loaded.params, loaded.config, format=to)
    sizes = [leaf.size for leaf in flatten(loaded.params).values()]
    print(f"{target}: {loaded.config.task}, {sum(sizes):,} parameters in {len(sizes)} arrays, format {to}")


def print_tokens(source: str, image: str, heads: int | None) -> None:
    """Prints the tokens of an image, a row of patches a line.

    Raises:
      UserError: see `token_ids`.
    """
    from beit_jax.convert.token_ids import token_ids

    for row in token_ids(source, image, heads):
        print(*(f"{token:5}" for token in row))


def convert_teacher(source: str, target: str, kind: str, *, gelu: str, heads: int | None) -> None:
    """Reads a teacher from `source`, and writes it as a run.

    Raises:
      UserError: see `load_teacher` and `save_teacher`.
    """
    from beit_jax.convert.teachers import load_teacher, save_teacher
    from beit_jax.training.params import flatten

    locate.check_target(as_path(target), "beit_jax")
    teacher, params = load_teacher(source, kind, heads=heads, gelu=gelu)
    save_teacher(target, teacher, params)
    size = sum(leaf.size for leaf in flatten(params).values())
    print(
        f"{target}: a teacher of the kind {kind}, {teacher.section.variant} for images of {teacher.image_size} pixels, "
        f"{teacher.width} numbers a patch, {size:,} parameters"
    )


def _verify(loaded: Any, source: str, *, is_new_head: bool) -> None:
    from beit_jax.convert import files, own_layout, shards
    from beit_jax.convert.verify import largest_differences

    path, folder = locate.local_path(source), None
    is_ours = path.is_dir() and holds_checkpoint(path)
    layout = "beit_jax" if is_ours or own_layout.is_own(path) else files.read_files(path).layout
    if layout == "hf" and not is_new_head:
        weights = locate.weights_file(path) if path.is_dir() else path
        is_named = weights.name.removesuffix(shards.INDEX) in locate.WEIGHTS
        is_complete = is_named and weights.with_name("config.json").exists()
        folder = weights.parent if is_complete else None
    differences = largest_differences(loaded, folder, layout)
    width = max(map(len, differences))
    for layer, difference in differences.items():
        print(f"{layer.ljust(width)}  {difference:.2e}")
    large = [f"{layer} by {found:.2e}" for layer, found in differences.items() if not found <= TOLERANCE]
    if large:
        raise UserError(
            f"the two libraries differ: {', '.join(large)}; expected at most {TOLERANCE:g}: nothing was written"
        )


if __name__ == "__main__":
    command.run(main)
