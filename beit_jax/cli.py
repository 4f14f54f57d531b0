"""What every door shares: flags, `--help`, and one line for a user's mistake in place of a stack trace."""

import argparse
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from beit_jax.errors import UserError
from beit_jax.runtime import distributed


class Parser(argparse.ArgumentParser):
    """For doors with arguments of their own: a mistake is a `UserError`."""

    def error(self, message: str) -> NoReturn:
        """Raises `UserError`, where argparse would print and exit."""
        raise UserError(f"{message}; see {self.prog} --help")


def print_help(argv: Sequence[str], usage: str, values: flags.FlagValues) -> None:
    """Prints the door's help and exits with status 0 where `argv` asks for it."""
    if {"-h", "--help", "--helpfull", "--helpshort"} & set(argv):
        print(f"{usage.strip()}\n\nFlags:{values.get_help()}")
        raise SystemExit(0)


def take(argv: Sequence[str], name: str) -> tuple[str, list[str]]:
    """The value of `--name=value` or `--name value` (empty where it is not given), and the other arguments."""
    rest, value, arguments = [], "", iter(argv)
    for argument in arguments:
        flag, given, text = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            value = text if given else next(arguments, "")
        else:
            rest.append(argument)
    return value, rest


def local_folder(flag: str, path: str) -> Path:
    """The folder that a flag names.

    Raises:
      UserError: it is a URL; `gs://bucket` would be taken for a folder called `gs:`.
    """
    if "://" in path:
        raise UserError(f"--{flag}={path} is a URL; expected a folder: mount the bucket, and give the path it has here")
    return Path(path)


def share(worker: str) -> tuple[int, int]:
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


def parse(argv: Sequence[str], values: flags.FlagValues, config: ConfigDict | None = None) -> None:
    """Parses `argv` (without the program's name) into `values`, and `--config.key=value` into `config`, in place.

    Raises:
      UserError: an unknown flag, a wrong value, a positional argument, an unknown config key.
    """
    try:
        if config is not None:
            config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["beit_jax", *argv])
        rest = values(["beit_jax", *argv])[1:]
    except (AttributeError, KeyError) as error:
        raise UserError(f"unknown config key: {_one_line(error).strip(chr(39))}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(_one_line(error)) from error
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}; flags are written --name=value, see --help")


def _one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Calls `main(sys.argv[1:])`; a `UserError` becomes one line on stderr and exit status 2.

    Of several processes that are one run, the others end with one that fails, and wait for one that is not done.
    """
    logging.set_verbosity(logging.ERROR)  # libraries warn of what a user cannot mend
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        distributed.exit_all(2, str(error))
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        distributed.exit_all(130, "interrupted")
    except Exception as error:
        traceback.print_exc()
        distributed.exit_all(1, f"{type(error).__name__}: {error}".splitlines()[0])
    except SystemExit as end:
        if not end.code:
            distributed.finish()
        raise
    distributed.finish()
