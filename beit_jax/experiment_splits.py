"""What a run makes sure of its splits: they have no image in common, and are those that it began with.

A run writes what its splits were into `data.json` in its folder, beside the first checkpoint.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from beit_jax.errors import UserError
from beit_jax.runtime.checkpoint_folder import has_checkpoint

DATA = "data.json"
SPLITS = ("split", "eval_split")
# What has no common image in the folders, and in most data sets, that have one split alone.
DISJOINT = "data.split=train[:90%] and data.eval_split=train[90%:]"


def check_disjoint(data: ConfigDict, why: str) -> None:
    """Checks that the splits of a section `data` have no image in common.

    Args:
      data: of a config.
      why: what goes wrong otherwise, for the message.

    Raises:
      UserError: they have.
    """
    from beit_jax.data.common_images import count_common

    common = count_common(data, data.split, data.eval_split)
    if common:
        raise UserError(
            f"data.split={data.split} and data.eval_split={data.eval_split} of {data.source} have {common} "
            f"image{'s' if common > 1 else ''} in common, {why}; choose splits without a common image, such as "
            f"{DISJOINT}"
        )


def describe_splits(data: ConfigDict) -> dict[str, Any]:
    """What the splits of a section `data` hold now, as `data.json` has it."""
    from beit_jax.data.fingerprint import describe_split

    return {f"data.{key}": describe_split(data, data[key]) for key in SPLITS}


def check_unchanged(data: ConfigDict, run: Path) -> None:
    """Checks, if a run has a checkpoint, that its data are those that it began with.

    Raises:
      UserError: they are not; says what differs.
    """
    if not has_checkpoint(run):
        return
    before, now, words = _compare(data, run, SPLITS)
    if words:
        same_classes = all(before[key]["classes"].keys() == now[key]["classes"].keys() for key in before)
        go_on = f"; to go on with the data as they are now, delete {run / DATA}" if same_classes else ""
        raise UserError(
            f"{data.source} has changed since the run in {run} began: {'; '.join(words)}. Restore the data, or choose "
            f"another --workdir{go_on}"
        )


def changed_since(data: ConfigDict, run: Path, splits: Sequence[str] = SPLITS) -> str:
    """What has changed in the splits of a run since it began, in words; empty: nothing, or it is not known.

    Args:
      data: of the config of the run.
      run: its folder.
      splits: keys of `data`.
    """
    try:
        return "; ".join(_compare(data, run, splits)[2])
    except UserError as error:
        return str(error)


def _compare(data: ConfigDict, run: Path, splits: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """What the splits were when a run began, what they are now, and what differs, in words."""
    from beit_jax.data.fingerprint import describe_change, describe_split

    try:
        before = json.loads((run / DATA).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}, {}, []  # the user deleted it, to go on
    before = {f"data.{key}": before[f"data.{key}"] for key in splits if _describes_split(before, f"data.{key}")}
    now = {key: describe_split(data, data[key.partition(".")[2]]) for key in before}
    changes = {key: describe_change(before[key], now[key]) for key in before}
    return before, now, [f"{key}={data[key.partition('.')[2]]}: {change}" for key, change in changes.items() if change]


def _describes_split(file: Any, key: str) -> bool:
    """Whether the contents of a `data.json` hold what `describe_split` makes under a key."""
    found = file.get(key) if isinstance(file, dict) else None
    return isinstance(found, dict) and isinstance(found.get("classes"), dict) and {"images", "hash"} <= found.keys()
