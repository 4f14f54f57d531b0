"""Which config a workdir belongs to: that of what was trained there. A start that trained nothing leaves it free."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax.errors import UserError
from beit_jax.experiment_splits import DATA
from beit_jax.runtime.checkpoint_folder import has_checkpoint
from beit_jax.runtime.urls import is_bucket

CONFIG = "config.json"
RESULT = "result.json"  # of a finished run: its last evaluation
NAMED = 8  # keys in an error message
FOLDERS = ("checkpoints", "compiled", "imported", "pictures", "tables", "tensorboard")  # of a run
FILES = (
    CONFIG,
    RESULT,
    DATA,
    "lock",
    "metrics.jsonl",
    "parameters.txt",
    "report.html",
    "unreadable.txt",
    "loggers.json",
)
# What a run writes before its first checkpoint, beside its config. Compiled programs may stay: their names are hashes
# of all that they depend on.
LEFTOVERS = (
    DATA,
    "metrics.jsonl",
    "metrics.jsonl.part",
    "loggers.json",
    "parameters.txt",
    "unreadable.txt",
    "unreadable-*.txt",
    "tensorboard/events.*.part",
    "tensorboard/events.*.out.tfevents.*",
)


def folders_of(config: ConfigDict, workdir: Path) -> dict[str, Path]:
    """The folder of each stage of a recipe, in order; that of a config without stages is the workdir."""
    return {name: workdir / name if "stages" in config else workdir for name in configs.stages_of(config)}


def read_result(folder: Path) -> dict[str, float] | None:
    """The last evaluation of a run that has ended; None where its file is missing or holds something else."""
    try:
        numbers = json.loads((folder / RESULT).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    is_result = isinstance(numbers, dict) and all(type(value) in (int, float) for value in numbers.values())
    return numbers if is_result else None


def check_contents(folder: Path) -> None:
    """Checks that what a run will write into its folder does not meet a file in place of a folder, or the reverse.

    Raises:
      UserError: it does, or a part of the path is a file.
    """
    try:
        for parent in (folder, *folder.parents):
            if parent.is_file():
                raise UserError(f"{parent} is a file; expected a folder: remove it, or choose another --workdir")
        if is_bucket(folder):
            return _check_objects(folder)
        for path in (folder / name for name in (*FOLDERS, *FILES)):
            expected = "folder" if path.name in FOLDERS else "file"
            if os.path.lexists(path) and not (path.is_dir() if expected == "folder" else path.is_file()):
                raise UserError(f"{path} is no {expected}; remove it, or choose another --workdir")
    except OSError as error:
        raise UserError(f"--workdir={folder} cannot be read: {error.strerror}; choose another folder") from error


def _check_objects(folder: Path) -> None:
    """As `check_contents`, by one list of what lies right in a folder of a bucket: each question is a request."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name in FOLDERS and path.is_file():
            raise UserError(f"{path} is no folder; remove it, or choose another --workdir")
        if path.name in FILES and not path.is_file():
            raise UserError(f"{path} is no file; remove it, or choose another --workdir")


def check_owner(workdir: Path, config: ConfigDict) -> None:
    """Checks that nothing in the workdir was trained with another config.

    Raises:
      UserError: a run, or a stage of a recipe, that has a checkpoint or has ended, is of another config.
    """
    owner = _owner(workdir)
    if owner is None:
        _check_not_finished(folders_of(config, workdir))
        return
    before, now = _trained(owner, workdir), _trained(config, workdir)
    if before.keys() != now.keys():
        names = [repr(name) for name in sorted(before.keys() ^ now.keys())]
        raise _conflict(workdir, f"{', '.join(names)} was trained there and is not in both")
    differing = {
        f"{name}.{key}" if "stages" in config else key: (stage, now[name], key)
        for name, stage in before.items()
        for key in configs.differing_keys(stage, now[name])
    }
    if differing:
        lines = [
            f"{name} is {_value(old, key)} there and {_value(new, key)} now"
            for name, (old, new, key) in differing.items()
        ]
        more = len(lines) - NAMED
        raise _conflict(workdir, f"{', '.join(lines[:NAMED])}{f', and {more} more keys differ' if more > 0 else ''}")


def _check_not_finished(folders: Mapping[str, Path]) -> None:
    """Raises UserError if a run has ended whose config is gone; that of a run that goes on is in its checkpoint."""
    for folder in folders.values():
        if read_result(folder) is not None:
            raise UserError(
                f"{folder} holds a finished run, and {CONFIG} is gone, so that it cannot be told whether it is a run "
                f"of this config; restore that file, choose another --workdir, or remove {folder / RESULT}: then the "
                "config is compared with that of the newest checkpoint"
            )


def remove_leftovers(workdir: Path, config: ConfigDict) -> None:
    """Removes what starts with another config wrote for runs that were not trained. Other files stay.

    Raises:
      UserError: a file cannot be removed.
    """
    owner = _owner(workdir)
    if owner is None:
        return
    before, now = configs.stages_of(owner), configs.stages_of(config)
    folders = folders_of(config, workdir)
    for name, folder in folders_of(owner, workdir).items():
        same = folders.get(name) == folder and not configs.differing_keys(before[name], now[name])
        if same or _is_trained(folder):
            continue
        try:
            for file in (file for pattern in LEFTOVERS for file in folder.glob(pattern)):
                file.unlink()
        except OSError as error:
            raise UserError(f"{folder} cannot be cleared: {error}; choose another --workdir") from error


def _owner(workdir: Path) -> ConfigDict | None:
    file = workdir / CONFIG
    if not file.exists():
        return None
    try:
        return configs.from_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} cannot be read ({error}); delete it to go on with the config given") from error


def _trained(config: ConfigDict, workdir: Path) -> dict[str, ConfigDict]:
    """The runs of a config that were trained in the workdir, by the names of their folders; "." is the workdir."""
    stages = configs.stages_of(config)
    found = {name: folder for name, folder in folders_of(config, workdir).items() if _is_trained(folder)}
    return {str(folder.relative_to(workdir)): stages[name] for name, folder in found.items()}


def _is_trained(folder: Path) -> bool:
    """Whether a run has ended, or has a checkpoint."""
    return read_result(folder) is not None or has_checkpoint(folder)


def _value(config: ConfigDict, key: str) -> str:
    values = configs.flatten(config)
    return repr(values[key]) if key in values else "absent"


def _conflict(workdir: Path, what: str) -> UserError:
    return UserError(
        f"{workdir} holds a run of another config: {what}; choose another --workdir, or continue that run with "
        f"--config={workdir / CONFIG}"
    )
