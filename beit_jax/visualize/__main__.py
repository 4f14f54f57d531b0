"""Looks at what runs have made.

python -m beit_jax.visualize report runs/quickstart
python -m beit_jax.visualize report runs/small runs/large --out compared.html
python -m beit_jax.visualize report runs/digits --markdown docs/results.md
python -m beit_jax.visualize attention --checkpoint runs/pretrain --image cat.jpg --out maps
python -m beit_jax.visualize tokens --checkpoint runs/tokenizer --image cat.jpg --out pictures
python -m beit_jax.visualize predictions --checkpoint runs/pretrain --image cat.jpg --out pictures
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from beit_jax import cli
from beit_jax.errors import UserError
from beit_jax.visualize import attention_command, token_commands


def main(argv: Sequence[str]) -> None:
    """Makes the picture or page that the first argument names."""
    parser = cli.Parser(
        prog="python -m beit_jax.visualize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = parser.add_subparsers(dest="what", required=True)
    report = names.add_parser("report", help="table and report.html of a workdir, or of several side by side")
    report.add_argument("workdirs", metavar="WORKDIR", nargs="+", help="of a run or of a recipe, finished or not")
    report.add_argument("--out", metavar="PAGE", help="otherwise report.html in the folder that holds all of it")
    report.add_argument(
        "--markdown",
        metavar="PAGE",
        help="also put the table between the lines <!-- begin NAME --> and <!-- end NAME --> of a Markdown page, where "
        "NAME is the name of the workdir",
    )
    report.set_defaults(run=_report)
    attention_command.add(names)
    token_commands.add(names)
    settings = parser.parse_args(argv)
    settings.run(settings)


def _report(settings: argparse.Namespace) -> None:
    workdirs = [cli.local_folder("workdir", workdir) for workdir in dict.fromkeys(settings.workdirs)]
    for workdir in workdirs:
        if not (workdir / "config.json").is_file():
            raise UserError(f"{workdir} holds no run; expected the --workdir of beit_jax.train")
    from beit_jax.visualize import markdown, report

    try:
        print(report.write(*workdirs, out=Path(settings.out) if settings.out else None))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{', '.join(map(str, workdirs))}: config.json or result.json cannot be read ({error}); make it again"
        ) from error
    except OSError as error:
        raise UserError(f"the report cannot be written: {error}; give another place with --out") from error
    for workdir in workdirs if settings.markdown else ():
        markdown.replace(Path(settings.markdown), workdir.resolve().name, markdown.table(report.collect(workdir)))


if __name__ == "__main__":
    cli.run(main)
