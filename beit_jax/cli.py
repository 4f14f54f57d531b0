"""The command lines of all commands: flags, keys of the config, and `--help`."""

import argparse
import contextlib
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax.config import override
from beit_jax.config.files import split_arg
from beit_jax.errors import Mistakes, UserError, did_you_mean
from beit_jax.extras import check_installed
from beit_jax.runtime.path_encoding import check_encoding
from beit_jax.runtime.paths import as_path
from beit_jax.runtime.urls import is_bucket

CONFIG_HELP = "config file, with arguments: FILE[:name=value,...]"
KEY = "--config."
KEYS_HELP = "Any key of the config can be set: --config.KEY=VALUE. --config FILE --help lists them."


class Parser(argparse.ArgumentParser):
    """Parses a command line; mistakes are a `UserError`, and the description keeps its lines.

    Without arguments, a command that needs some prints its help and exits with status 2.
    """

    def __init__(
        self,
        *,
        plugins: bool = False,
        takes_keys: bool = False,
        check: Callable[[argparse.Namespace], None] = lambda args: None,
        **settings: Any,
    ):
        """
        Args:
          plugins: whether the command takes `--plugin`.
          takes_keys: whether arguments that set keys of a config are left over.
          check: of the flags; what it finds is told together with unknown flags.
          **settings: of argparse; `prog` and `description` among them.
        """
        self._takes_keys, self._own_check, self._unknown = takes_keys, check, ()
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)
        if plugins:
            self.add_argument(
                "--plugin",
                metavar="FILE",
                action=_RunPlugin,
                help="Python file that registers tasks or tokenizers of your own; it is run. May be repeated.",
            )

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """The flags, and arguments that set keys of a config, where the command takes them.

        Raises:
          UserError: unknown flags and what else is wrong.
          SystemExit: there are no arguments and some are needed, or they ask for the help.
        """
        if not args and (self._takes_keys or any(action.required for action in self._actions)):
            self.print_help()
            raise SystemExit(2)
        self._unknown = self._describe_unknown_flags(args)
        found, rest = super().parse_known_args(args, namespace)
        if self._takes_keys:
            return found, rest
        unexpected = [f"unexpected argument {argument!r}; see {self.prog} --help" for argument in rest]
        mistakes = Mistakes()
        for line in self._unknown or unexpected:
            mistakes.add(line)
        with mistakes.collected():
            self.check(found)
        mistakes.raise_all()
        return found, rest

    def check(self, args: argparse.Namespace) -> None:
        """
        Raises:
          UserError: everything that is wrong with the flags.
        """
        self._own_check(args)

    def error(self, message: str) -> NoReturn:
        """Raises `UserError`, where argparse would print and exit."""
        raise UserError(*self._unknown, f"{message}; see {self.prog} --help")

    def _describe_unknown_flags(self, args: Sequence[str]) -> list[str]:
        """One line for each flag that the command does not have; a command of several leaves them to these."""
        if self._takes_keys or self._subparsers:
            return []
        names = [arg.partition("=")[0] for arg in args if arg.startswith("--") and arg != "--"]
        known = self._option_string_actions
        return [f"there is no flag {name}{did_you_mean(name, known)}" for name in names if name not in known]


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
    parser = Parser(
        prog=f"python -m {module}",
        description=description,
        epilog=KEYS_HELP,
        plugins=True,
        takes_keys=True,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this text, and exit")
    parser.add_argument("--config", metavar="FILE", default="", help=f"{CONFIG_HELP}, such as {example}")
    parser.example = example
    return parser


def parse_with_config(
    parser: Parser, argv: Sequence[str], check: Callable[[argparse.Namespace, ConfigDict], None] | None = None
) -> tuple[argparse.Namespace, ConfigDict]:
    """The flags, and the config with the overrides of the command line.

    With `--help`, prints the flags, and the keys of the config if there is one, and exits with status 0.

    Args:
      parser: from `config_parser`.
      argv: the arguments.
      check: the command's own check of flags and config. It is called although other arguments are wrong, so that a
        user learns of all mistakes at once.

    Raises:
      UserError: there is no config, or flags, keys or values are wrong, or `check` finds something.
    """
    args, overrides = parser.parse_known_args(argv)
    if args.help:
        print_help(parser, args.config, overrides)
    mistakes, config = Mistakes(), None
    with mistakes.collected():
        config = load_config(parser, args, overrides)
    with mistakes.collected():
        set_keys(parser, config, overrides)
    with mistakes.collected():
        if check:
            check(args, config)
    mistakes.raise_all()
    return args, config


def load_config(parser: Parser, args: argparse.Namespace, rest: Sequence[str]) -> ConfigDict:
    """The config that `--config` names.

    Args:
      parser: from `config_parser`.
      args: the flags.
      rest: arguments that are no flags, for the message.

    Raises:
      UserError: the flag is missing, or the file cannot be loaded.
    """
    if args.config:
        return configs.load(args.config)
    files = [argument for argument in rest if re.search(r"\.py(:|$)", argument)]
    example = f"write --config={files[0]}" if files else f"expected a file such as {parser.example}"
    raise UserError(f"--config is missing; {example}; see {parser.prog} --help")


def set_keys(parser: Parser, config: ConfigDict | None, arguments: Sequence[str]) -> None:
    """Applies the arguments that are no flags of a command to its config, in place.

    Args:
      parser: from `config_parser`.
      config: None if there is none; then only the names of flags are checked.
      arguments: that the parser did not know.

    Raises:
      UserError: arguments that are neither flags nor keys.
    """
    mistakes, keys = Mistakes(), []
    for index, argument in enumerate(arguments):
        before = arguments[index - 1] if index else ""
        if argument.startswith(KEY) or (before.startswith(KEY) and "=" not in before and argument[:2] != "--"):
            keys.append(argument)
        elif config is not None or argument.startswith("-"):
            mistakes.add(_describe_unknown_argument(parser, config, argument))
    with mistakes.collected():
        if config is not None:
            override(config, keys)
    mistakes.raise_all()


def _describe_unknown_argument(parser: Parser, config: ConfigDict | None, argument: str) -> str:
    name, equals, value = argument.partition("=")
    if not name.startswith("-"):
        hint = "; arguments of a config file follow a colon: --config=FILE:name=value" if equals else ""
        return f"unexpected argument {argument!r}{hint}; see {parser.prog} --help"
    key = name.lstrip("-")
    if config is not None and key in configs.flatten(config):
        return f"there is no flag {name}; keys of the config are set with {KEY}{key}{equals}{value}"
    near = did_you_mean(f"--{key}", parser._option_string_actions)
    return f"there is no flag {name}{near or f'; see {parser.prog} --help'}"


def print_help(parser: Parser, file: str, overrides: Sequence[str]) -> NoReturn:
    """Prints the flags and, if a config is named, what it says of itself and its keys, and exits with status 0."""
    parser.print_help()
    if file:
        with contextlib.suppress(UserError):  # told below
            print(f"\n{_describe_file(file)}")
        try:
            config = configs.load(file)
            set_keys(parser, config, overrides)
        except UserError as error:
            print(f"\nThe keys of the config cannot be listed: {error}")
        else:
            print(f"\n{configs.describe_keys(config)}")
    raise SystemExit(0)


def _describe_file(file: str) -> str:
    """The docstring of a config file, which explains its arguments.

    Raises:
      UserError: there is no such file.
    """
    path, _ = split_arg(file)
    if path.endswith(".json"):
        return ""
    return f"{path}: {inspect.cleandoc(configs.python_file(path).__doc__ or 'it says nothing of itself')}"


def required_folder(flag: str, path: str, example: str) -> Path:
    """The folder that a required flag names, in which libraries read or write; it may lie in a bucket.

    Raises:
      UserError: it is missing, a URL of something else than a bucket, or not in UTF-8.
    """
    if not path:
        raise UserError(f"--{flag} is missing; expected a folder, such as --{flag}={example}")
    folder = local_folder(flag, path)
    if not is_bucket(folder):
        check_encoding(f"--{flag}=", folder)
    return folder


def local_folder(flag: str, path: str) -> Path:
    """The folder that a flag names; it may lie in a bucket.

    Raises:
      UserError: it is a URL of something else.
    """
    if is_bucket(path):
        check_installed("gcsfs")
    try:
        return as_path(path)
    except UserError as error:
        raise UserError(f"--{flag}={error}") from error


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
