"""Shows what runs have made.

  python -m beit_jax.visualize report runs/quickstart
  python -m beit_jax.visualize report runs/small runs/large --out compared.html
  python -m beit_jax.visualize report runs/digits --markdown docs/results.md
  python -m beit_jax.visualize attention --checkpoint runs/pretrain --image cat.jpg --out maps
  python -m beit_jax.visualize tokens --checkpoint runs/tokenizer --image cat.jpg --out pictures
  python -m beit_jax.visualize predictions --checkpoint runs/pretrain --image cat.jpg --out pictures

COMMAND --help explains each.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from beit_jax import cli, command, extras, path_flags
from beit_jax.errors import Mistakes, UserError
from beit_jax.visualize import attention_command, token_commands
from beit_jax.visualize.workdirs import workdir_of

REPORT = """Results, pictures, curves, speed and config of runs, finished or not, in one HTML page; prints the results.

  python -m beit_jax.visualize report runs/quickstart
  python -m beit_jax.visualize report runs/small runs/large --out compared.html
  python -m beit_jax.visualize report runs/digits --markdown docs/results.md

A run whose task lies in a file of your own is shown with its captions and curves if that file is given with --plugin,
and with the curve of its loss and all its numbers otherwise.
"""


def main(argv: Sequence[str]) -> None:
    """Makes the pictures or the page that the first argument names."""
    parser = cli.Parser(prog="python -m beit_jax.visualize", description=__doc__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    _add_report(commands)
    attention_command.add_parser(commands)
    token_commands.add_parsers(commands)
    settings = parser.parse_args(argv)
    settings.run(settings)


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report", help="table and report.html of one run or several", description=REPORT, plugins=True
    )
    parser.add_argument(
        "workdirs", metavar="WORKDIR", nargs="+", help="folder of a run, of a recipe or of one of its stages"
    )
    parser.add_argument("--out", metavar="PAGE", help="default: report.html in the folder that holds all workdirs")
    parser.add_argument(
        "--markdown",
        metavar="PAGE",
        help="Markdown page in which to replace the table between the lines <!-- begin NAME --> and <!-- end NAME -->, "
        "where NAME is the name of the workdir",
    )
    parser.add_argument(
        "--arms",
        action="store_true",
        help="in that table a row for each arm of a recipe whose stages are called STAGE_ARM, such as probe_scratch",
    )
    parser.set_defaults(run=_report)


def _report(settings: argparse.Namespace) -> None:
    workdirs, mistakes = [], Mistakes()
    for workdir in dict.fromkeys(settings.workdirs):
        with mistakes.collected():
            workdirs.append(workdir_of(path_flags.input_folder("workdir", workdir)))
    out, markdown_page = None, None
    with mistakes.collected():
        out = path_flags.output("out", settings.out, "file") if settings.out else None
    with mistakes.collected():
        markdown_page = path_flags.output("markdown", settings.markdown, "file") if settings.markdown else None
    with mistakes.collected():
        if settings.arms and not settings.markdown:
            raise UserError("--arms is for the table of --markdown, which is missing; expected --markdown=PAGE")
    with mistakes.collected():
        extras.check_installed("matplotlib")
    mistakes.raise_all()
    from beit_jax.visualize import markdown, report, runs

    try:
        print(report.write_report(*workdirs, out=out))
        for workdir in workdirs if markdown_page else ():
            make_table = markdown.table_by_arm if settings.arms else markdown.markdown_table
            table = make_table(runs.collect_runs(workdir))
            markdown.replace_table(markdown_page, workdir.resolve().name, table)
    except OSError as error:
        raise UserError(
            f"the report cannot be made: {error}; check that path, or choose another page with --out"
        ) from error


if __name__ == "__main__":
    command.run(main)
