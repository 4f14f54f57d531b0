"""Trains the members of a sweep: one after the other on this machine, or each as a job of its own.

  python launch/sweep.py --config launch/example_sweep.py:runlocal --workdir runs/sweep
  python launch/sweep.py --config launch/example_sweep.py --workdir /mnt/sweep --via "launch/slurm.sh --nodes 2 --"

The config file defines, beside get_config, a generator of overrides, which receives the same argument:

  def get_sweep(arg=""):
      for lr in (1e-3, 4e-3):
          yield {"optimizer.lr": lr}

The key "arg" stands for the argument of get_config: {"arg": "variant=S/16"}. Each member has a folder under the
workdir, named after its overrides. Run the same command again to continue: finished members are skipped.
"""

import dataclasses
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beit_jax import cli, command
from beit_jax import config as configs
from beit_jax.errors import UserError
from beit_jax.runtime import membership
from beit_jax.train import RESULT


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
      name: of its folder.
      arguments: of `python -m beit_jax.train`.
      results: files that its stages write at their end.
    """

    name: str
    arguments: tuple[str, ...]
    results: tuple[Path, ...]

    def is_finished(self) -> bool:
        """Whether all stages of the run have ended."""
        return all(result.exists() for result in self.results)


def main(argv: Sequence[str]) -> None:
    """The command; see the module's docstring."""
    parser = cli.Parser(prog="python launch/sweep.py", description=__doc__, plugins=True)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="config file with a sweep")
    parser.add_argument("--workdir", required=True, metavar="FOLDER", help="folder of the members' folders")
    parser.add_argument(
        "--via", default="", metavar="COMMAND", help="command that takes the arguments of training, with its --"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands of unfinished members")
    args = parser.parse_args(argv)
    membership.stay_alone()  # configs may ask for the devices, which the members take
    plugins = [f"--plugin={file}" for file in args.plugin or ()]
    left = [member for member in sweep_members(args.config, args.workdir) if not member.is_finished()]
    try:
        prefix = shlex.split(args.via) or [sys.executable, "-m", "beit_jax.train"]
    except ValueError as error:
        raise UserError(f"--via={args.via}: {error}; expected a command such as 'launch/slurm.sh --'") from error
    commands = {member.name: [*prefix, *plugins, *member.arguments] for member in left}
    if args.dry_run:
        print("".join(f"{shlex.join(arguments)}\n" for arguments in commands.values()), end="")
    else:
        run_commands(commands)


def sweep_members(config: str, workdir: str) -> list[Member]:
    """The members of the sweep that a config file defines; their configs are valid.

    Args:
      config: `FILE[:ARG]`.
      workdir: folder of the members' folders.

    Raises:
      UserError: the file defines no sweep, it is empty, a key is unknown, or two members have one name.
    """
    file, _, base = config.partition(":")
    module = configs.python_file(file)
    if not hasattr(module, "get_sweep"):
        raise UserError(f'config {file!r} defines no get_sweep; expected `def get_sweep(arg="")` that yields overrides')
    folder = cli.local_folder("workdir", workdir)
    members: dict[str, Member] = {}
    for overrides in module.get_sweep(base):
        member = create_member(file, base, dict(overrides), folder)
        if member.name in members:
            raise UserError(f"{file}: two members of the sweep are called {member.name}; expected different overrides")
        members[member.name] = member
    if not members:
        raise UserError(f"{file}: get_sweep yields nothing; expected a dictionary of overrides for each member")
    return list(members.values())


def create_member(file: str, base: str, overrides: dict[str, Any], folder: Path) -> Member:
    """A member whose config is valid.

    Args:
      file: the config file of the sweep.
      base: its argument.
      overrides: of the member.
      folder: of all members.

    Raises:
      UserError: a key is unknown, or a value is wrong.
    """
    name = re.sub(r"[^\w.=,+-]", "_", ",".join(f"{key}={value}" for key, value in overrides.items())) or "base"
    arg = ",".join(filter(None, (base, str(overrides.pop("arg", "")))))
    path = f"{file}:{arg}" if arg else file
    keys = [f"--config.{key}={value}" for key, value in overrides.items()]
    config = configs.load(path)
    try:
        cli.override(config, keys)
        configs.validate(config)
    except UserError as error:
        raise UserError(f"member {name}: {error}") from error
    own = folder / name
    results = tuple(own / stage / RESULT for stage in config.get("stages", ())) or (own / RESULT,)
    return Member(name, (f"--config={path}", f"--workdir={own}", *keys), results)


def run_commands(commands: dict[str, list[str]]) -> None:
    """Runs commands one after the other, also those after a failure.

    SIGTERM and SIGINT are forwarded to the running command, and no other is started.

    Args:
      commands: of the members, by name.

    Raises:
      UserError: a command cannot be run.
      SystemExit: with the status of the first failure, or of the command that received a signal.
    """
    received: list[int] = []
    process: subprocess.Popen | None = None

    def forward(number: int, _: Any) -> None:
        received.append(number)
        if process:
            process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    failed: dict[str, int] = {}
    for name, arguments in commands.items():
        if received:
            break
        print(f"{name}: {shlex.join(arguments)}", flush=True)
        try:
            process = subprocess.Popen(arguments, start_new_session=True)  # so that Ctrl-C reaches it only through us
        except OSError as error:
            raise UserError(f"{arguments[0]} cannot be run: {error}; give a command that exists") from error
        if received:
            process.send_signal(received[-1])
        status = process.wait()
        if status:
            failed[name] = status if status > 0 else 128 - status
            print(f"{name}: ended with status {failed[name]}", file=sys.stderr, flush=True)
    if failed:
        raise SystemExit(next(iter(failed.values())))


if __name__ == "__main__":
    command.run(main)
