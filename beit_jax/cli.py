"""What every command shares: flags, `--help`, and one line for a user's mistake in place of a stack trace."""

import argparse
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from beit_jax import config as configs
from beit_jax.errors import UserError
from beit_jax.runtime import distributed

CONFIG_HELP = "config file, with arguments: FILE[:name=value,...]"
KEYS_HELP = "Any key of the config can be set: --config.KEY=VALUE. --config FILE --help lists them."


class Parser(argparse.ArgumentParser):
    """Parses a command line; a mistake is a `UserError`, and the description keeps its lines."""

    def __init__(self, *, plugins: bool = False, **settings: Any):
        """
        Args:
          plugins: whether the command takes `--plugin`.
          **settings: of argparse; `prog` and `description` among them.
        """
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)
        if plugins:
            self.add_argument(
                "--plugin",
                metavar="FILE",
                action=_RunPlugin,
                help="Python file that registers tasks or tokenizers of your own; it is run. May be repeated.",
            )

    def error(self, message: str) -> NoReturn:
        """Raises `UserError`, where argparse would print and exit."""
        raise UserError(f"{message}; see {self.prog} --help")


class _RunPlugin(argparse.Action):
    """Runs a plugin where it is parsed, before anything needs what it registers."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        configs.python_file(values, "plugin")
        namespace.plugin = [*(namespace.plugin or ()), values]  # for commands that start others


def config_parser(module: str, description: str, example: str) -> Parser:
    """The parser of a command that takes `--config FILE` and overrides of its keys.

    Args:
      module: of the command, such as "beit_jax.train".
      description: its docstring.
      example: of a file, for messages.
    """
    parser = Parser(prog=f"python -m {module}", description=description, epilog=KEYS_HELP, plugins=True, add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="show this text, and exit")
    parser.add_argument("--config", metavar="FILE", default="", help=f"{CONFIG_HELP}, such as {example}")
    parser.example = example
    return parser


def parse_with_config(parser: Parser, argv: Sequence[str]) -> tuple[argparse.Namespace, ConfigDict]:
    """The flags, and the config with the overrides of the command line.

    With `--help`, prints the flags, and the keys of the config if there is one, and exits with status 0.

    Raises:
      UserError: there is no config, or a flag, a key or a value is wrong.
    """
    args, overrides = parser.parse_known_args(argv)
    if args.help:
        print_help(parser, args.config, overrides)
    if not args.config:
        raise UserError(f"--config is missing; expected a file such as {parser.example}; see {parser.prog} --help")
    config = configs.load(args.config)
    override(config, overrides)
    return args, config


def print_help(parser: Parser, file: str, overrides: Sequence[str]) -> NoReturn:
    """Prints the flags, and the keys of a config with their values if one is named, and exits with status 0."""
    parser.print_help()
    if file:
        config = configs.load(file)
        override(config, overrides)
        print(f"\n{configs.describe_keys(config)}")
    raise SystemExit(0)


def override(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Applies arguments such as `--config.key=value` to a config, in place.

    Raises:
      UserError: an unknown key, a wrong value, or another argument.
    """
    for argument in arguments:
        if match := re.match(r"--config\.(?:\w+\.)?(task|model\.kind|tokenizer\.kind)(=|$)", argument):
            raise UserError(
                f"{argument} would change which keys there are; set {match[1]} in the config file, with "
                "defaults(TASK, TOKENIZER_KIND)"
            )
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["beit_jax", *arguments])
        rest = values(["beit_jax", *arguments])[1:]
    except (AttributeError, KeyError) as error:
        raise UserError(f"unknown config key: {_one_line(error).strip(chr(39))}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(_one_line(error)) from error
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}; flags are written --name=value, see --help")


def _one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())


def required_folder(flag: str, path: str, example: str) -> Path:
    """The folder that a required flag names.

    Raises:
      UserError: it is missing, or a URL.
    """
    if not path:
        raise UserError(f"--{flag} is missing; expected a folder, such as --{flag}={example}")
    return local_folder(flag, path)


def local_folder(flag: str, path: str) -> Path:
    """The folder that a flag names.

    Raises:
      UserError: it is a URL; `gs://bucket` would be taken for a folder called `gs:`.
    """
    if "://" in path:
        raise UserError(f"--{flag}={path} is a URL; expected a folder: mount the bucket, and give the path it has here")
    return Path(path)


def worker_index(worker: str) -> tuple[int, int]:
    """Reads "I/N", the value of `--worker`: number I, from 0 on, of N that divide the work.

    Raises:
      UserError: it is something else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", worker)
    index, count = map(int, match.groups()) if match else (0, 0)
    if index >= count:
        raise UserError(
            f"found --worker={worker}, expected I/N with I from 0 to N - 1, such as 0/4 for the first of four"
        )
    return index, count


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Calls `main(sys.argv[1:])`; a `UserError` becomes one line on stderr and exit status 2.

    If several processes are one run: when one fails, all end; a process that is done waits for the others.
    """
    logging.set_verbosity(logging.ERROR)  # libraries warn of what a user cannot change
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        distributed.exit_all(2, str(error))
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        distributed.exit_all(130, "interrupted")
    except Exception as error:
        traceback.print_exc()
        distributed.exit_all(1, f"{type(error).__name__}: {error}".splitlines()[0])
    except SystemExit as end:
        if not end.code:
            distributed.finish()
        raise
    distributed.finish()
