"""Publishes a model on the hub of Hugging Face, with a model card.

  python -m beit_jax.push runs/finetune owner/name --license apache-2.0
  python -m beit_jax.push runs/tokenizer owner/name --license mit --private --revision small
  python -m beit_jax.push runs/finetune owner/name --license mit --out published      writes it, and pushes nothing

SRC is a run, one of its checkpoints, or what else `beit_jax.from_pretrained` reads. What is published can be read as
`from_pretrained("owner/name")`, to the last bit, and where transformers or timm have such a model, by them. Weights are
safetensors; the model card has the task, the data, the settings, the results of the run, and the licence that you give.
Paths of this machine are not published. The token is that of HF_TOKEN, or of `hf auth login`.
"""

import argparse
from collections.abc import Sequence

from beit_jax import cli, command, extras
from beit_jax.convert import locate, shards
from beit_jax.errors import Mistakes

FORMATS = ("hf", "timm", "data2vec", "safetensors")


def main(argv: Sequence[str]) -> None:
    """The command; see the module's docstring."""
    parser = cli.Parser(prog="python -m beit_jax.push", description=__doc__, plugins=True, check=_check_command)
    parser.add_argument("source", metavar="SRC", help="run, checkpoint, file, folder or hub id")
    parser.add_argument("id", metavar="ID", help="owner/name on the hub; it is made if it is not there")
    parser.add_argument("--license", metavar="KEY", required=True, help="of the weights, such as apache-2.0 or mit")
    parser.add_argument("--format", choices=FORMATS, help="by default hf where transformers has such a model")
    parser.add_argument("--private", action="store_true", default=None, help="make a private repository")
    parser.add_argument("--revision", metavar="BRANCH", help="by default main; it is made if it is not there")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    parser.add_argument("--max_shard_size", metavar="SIZE", default="5GB", help="of a file of weights, such as 500MB")
    parser.add_argument("--out", metavar="FOLDER", help="write what would be published there, and push nothing")
    args = parser.parse_args(argv)
    from beit_jax.convert import pushing

    given = {name: getattr(args, name) for name in ("license", "format", "max_shard_size", "revision")}
    if args.out:
        pushing.write_published(cli.local_folder("out", args.out), args.source, args.id, **given)
        print(f"{args.out}: what {args.id} would be; nothing was pushed")
        return
    more = dict(private=args.private, commit_message=args.message)
    print(f"published {pushing.push_to_hub(args.source, args.id, **given, **more)}")


def _check_command(args: argparse.Namespace) -> None:
    mistakes = Mistakes()
    with mistakes.collected():
        locate.check_name(args.source)
    with mistakes.collected():
        shards.check_size(args.max_shard_size)
    with mistakes.collected():
        extras.check_installed("huggingface_hub", "safetensors")
    if args.out:
        with mistakes.collected():
            locate.check_target(cli.local_folder("out", args.out), args.format or "hf")
    mistakes.raise_all()


if __name__ == "__main__":
    command.run(main)
