"""Trains the members of a sweep, one after the other here, or each as a job of its own.

  python launch/sweep.py --config launch/example_sweep.py:runlocal --workdir runs/sweep
  python launch/sweep.py --config launch/example_sweep.py --workdir /mnt/sweep --via "launch/slurm.sh --nodes 2 --"

The config file defines, beside get_config, a generator of overrides, which is given the same argument:

  def get_sweep(arg=""):
      for lr in (1e-3, 4e-3):
          yield {"optimizer.lr": lr}

The key "arg" stands for the argument of get_config: {"arg": "variant=S/16"}. Each member has a folder under the
workdir, called after its overrides. Run the same command again to continue: finished members are skipped.
"""

import argparse
import dataclasses
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from beit_jax import cli
from beit_jax import config as configs
from beit_jax.errors import UserError
from beit_jax.train import RESULT


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep: `arguments` are those of `python -m beit_jax.train`."""

    name: str
    arguments: tuple[str, ...]
    results: tuple[Path, ...]

    def finished(self) -> bool:
        """Whether the run, with all its stages, has ended."""
        return all(result.exists() for result in self.results)


def main(argv: Sequence[str]) -> None:
    """The door; see the module's docstring."""
    parser = cli.Parser(
        prog="python launch/sweep.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]")
    parser.add_argument("--workdir", required=True, metavar="FOLDER", help="of the members' folders")
    parser.add_argument(
        "--via", default="", metavar="COMMAND", help="what takes the arguments of training, with its --"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands of the members that are left")
    arguments = parser.parse_args(argv)
    left = [member for member in members(arguments.config, arguments.workdir) if not member.finished()]
    try:
        prefix = shlex.split(arguments.via) or [sys.executable, "-m", "beit_jax.train"]
    except ValueError as error:
        raise UserError(f"--via={arguments.via}: {error}; expected a command such as 'launch/slurm.sh --'") from error
    commands = {member.name: [*prefix, *member.arguments] for member in left}
    if arguments.dry_run:
        print("".join(f"{shlex.join(command)}\n" for command in commands.values()), end="")
    else:
        run(commands)


def members(config: str, workdir: str) -> list[Member]:
    """The members of the sweep that a config file defines, all of them checked.

    Args:
      config: `FILE[:ARG]`.
      workdir: of the members' folders.

    Raises:
      UserError: the file defines no sweep, it is empty, a key is unknown, or two members have one name.
    """
    file, _, base = config.partition(":")
    module = configs.config_module(file)
    if not hasattr(module, "get_sweep"):
        raise UserError(f'config {file!r} defines no get_sweep; expected `def get_sweep(arg="")` that yields overrides')
    folder = cli.local_folder("workdir", workdir)
    found: dict[str, Member] = {}
    for overrides in module.get_sweep(base):
        member = make(file, base, dict(overrides), folder)
        if member.name in found:
            raise UserError(f"{file}: two members of the sweep are called {member.name}; expected different overrides")
        found[member.name] = member
    if not found:
        raise UserError(f"{file}: get_sweep yields nothing; expected a dictionary of overrides for each member")
    return list(found.values())


def make(file: str, base: str, overrides: dict[str, Any], folder: Path) -> Member:
    """A member whose config loads and is valid.

    Args:
      file: that defines the sweep.
      base: its argument.
      overrides: of the member.
      folder: of all members.

    Raises:
      UserError: a key or value that the config refuses.
    """
    from beit_jax.validate import validate

    name = re.sub(r"[^\w.=,+-]", "_", ",".join(f"{key}={value}" for key, value in overrides.items())) or "base"
    arg = ",".join(filter(None, (base, str(overrides.pop("arg", "")))))
    path = f"{file}:{arg}" if arg else file
    keys = [f"--config.{key}={value}" for key, value in overrides.items()]
    config = configs.load(path)
    try:
        cli.parse(keys, flags.FlagValues(), config)
        validate(config)
    except UserError as error:
        raise UserError(f"member {name}: {error}") from error
    own = folder / name
    results = tuple(own / stage / RESULT for stage in config.get("stages", ())) or (own / RESULT,)
    return Member(name, (f"--config={path}", f"--workdir={own}", *keys), results)


def run(commands: dict[str, list[str]]) -> None:
    """Runs the commands one after the other; a failure does not keep the later ones from their turn.

    SIGTERM and SIGINT are passed on to the one that runs, and no other is started.

    Raises:
      UserError: a command cannot be run.
      SystemExit: with the status of the first failure, or of the command that was told to stop.
    """
    told: list[int] = []
    process: subprocess.Popen | None = None

    def pass_on(number: int, _: Any) -> None:
        told.append(number)
        if process:
            process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    failed: dict[str, int] = {}
    for name, command in commands.items():
        if told:
            break
        print(f"{name}: {shlex.join(command)}", flush=True)
        try:
            process = subprocess.Popen(command, start_new_session=True)  # Ctrl-C reaches it through us only
        except OSError as error:
            raise UserError(f"{command[0]} cannot be run: {error}") from error
        if told:
            process.send_signal(told[-1])
        status = process.wait()
        if status:
            failed[name] = status if status > 0 else 128 - status
            print(f"{name}: ended with status {failed[name]}", file=sys.stderr, flush=True)
    if failed:
        raise SystemExit(next(iter(failed.values())))


if __name__ == "__main__":
    cli.run(main)
