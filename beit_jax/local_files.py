"""Whether the folders that a config names are there; checked before libraries that take seconds to import."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from beit_jax.config.class_names import scores_classes
from beit_jax.config.schema import declared_keys
from beit_jax.config.serialization import flatten
from beit_jax.data.records.stored_tokens import check_folder
from beit_jax.data.sources import data_sets, folder_checks, layout
from beit_jax.data.sources.label_choice import parse_labels
from beit_jax.errors import Mistakes, UserError
from beit_jax.runtime import bucket
from beit_jax.runtime.checkpoint_folder import find_checkpoint, has_checkpoint
from beit_jax.runtime.path_encoding import check_encoding
from beit_jax.runtime.paths import as_path
from beit_jax.runtime.urls import is_bucket, is_url

IMAGENET_22K = "imagenet21k"  # the name that configs expect of its records
BUILT_IN = ("digits", "digit_scenes")
SPLITS = ("split", "eval_split")
TOKENS = "tokens"
STARTS = ("init_from", "resume_from")  # what a run needs until it has a checkpoint of its own
SHOWN = 8  # data sets that one line lists


def check_run(
    config: ConfigDict, run: Path | None = None, check_start: Callable[[str], object] = find_checkpoint
) -> None:
    """Checks everything that the training of a run reads.

    Args:
      config: of the run.
      run: its folder, if it is known.
      check_start: see `check_paths`.

    Raises:
      UserError: folders or checkpoints that are missing.
    """
    mistakes = Mistakes()
    with mistakes.collected():
        check_data(config)
    with mistakes.collected():
        check_paths(config, STARTS if run and has_checkpoint(run) else (), check_start)
    mistakes.raise_all()


def check_paths(
    config: ConfigDict, without: Sequence[str] = (), check_start: Callable[[str], object] = find_checkpoint
) -> None:
    """Checks the keys of a config that name folders on this machine.

    Args:
      config: of a run.
      without: keys that do not matter.
      check_start: checks the value of `init_from`, in whatever section it is, where it is not to be a run here.

    Raises:
      UserError: folders that are missing, and those that should hold a checkpoint and do not.
    """
    mistakes, values = Mistakes(), flatten(config)
    for name, key in declared_keys(config).items():
        path = values.get(name, "") if key.is_path and name not in without else ""
        if path in ("", "random") or path.startswith("stage:"):
            continue
        with mistakes.collected(f"{name}="):
            where = as_path(path)
            if is_bucket(path):
                bucket.check_access("", path, writes=False)
            else:
                check_encoding("", where)
            if name.rpartition(".")[2] in STARTS:
                (find_checkpoint if name == "resume_from" else check_start)(path)
            elif not where.exists():
                raise UserError(f"{path} is not there; expected a {key.help}")
            elif name == TOKENS:
                check_folder(where)
    mistakes.raise_all()


def check_data(config: ConfigDict, splits: Sequence[str] = SPLITS) -> None:
    """Checks the folder of the images, or of the prepared data sets.

    Args:
      config: of a run.
      splits: the keys of the splits that are needed.

    Raises:
      UserError: the folder is missing, has no such split, or lacks the classes that the task scores.
    """
    data = config.data
    if data_sets.has_prefix(data.source):
        return _check_examples(config, splits)
    path = layout.path_of(data.source)
    if not path:
        return _check_data_set(data.source, data.data_dir)
    try:
        folder_checks.check_folder(path)
    except UserError as error:
        raise UserError(f"data.source={data.source}: {error}") from error
    mistakes = Mistakes()
    for name in splits:
        with mistakes.collected(f"data.{name}={data[name]}: "):
            folder_checks.check_split(path, data[name])
    mistakes.raise_all()
    for name in splits if scores_classes(config) and not layout.is_paired(path) else ():
        try:
            folder_checks.check_classes(path, data[name])
        except UserError as error:
            raise UserError(f"data.source={data.source}: {error}") from error


def _check_examples(config: ConfigDict, splits: Sequence[str]) -> None:
    """Checks the splits of a data set with a prefix, of which no image is read."""
    source, mistakes = config.data.source, Mistakes()
    try:
        data_sets.open_data_set(source)
    except UserError as error:
        raise UserError(f"data.source={source}: {error}") from error
    for name in splits:
        with mistakes.collected(f"data.{name}={config.data[name]}: "):
            data_sets.select(source, config.data[name])
            if scores_classes(config):
                are_chosen = name == "split" and parse_labels(config.data.labels).fraction != 1
                data_sets.check_labelled(source, config.data[name], may_lack=are_chosen)
    mistakes.raise_all()


def check_outside(flag: str, path: Path, config: ConfigDict) -> None:
    """Checks that a command does not write among the images that a config reads.

    Args:
      flag: that names the path.
      path: where the command writes.
      config: of a run.

    Raises:
      UserError: it would.
    """
    if folder := layout.path_of(config.data.source):
        folder_checks.check_outside(flag, path, folder)


def _check_data_set(source: str, data_dir: str) -> None:
    name = re.split(r"[/:]", source)[0]
    if re.match(r"[~./\\]|[A-Za-z]:[/\\]", source):
        raise UserError(
            f"data.source={source} is a path, and names of data sets are expected; to read a folder of images, write "
            f"folder:{source}"
        )
    if is_url(data_dir):
        mistakes = Mistakes()
        with mistakes.collected("data.data_dir="):
            as_path(data_dir)
            bucket.check_access("", data_dir, writes=False)
        mistakes.raise_all()
    if source in BUILT_IN:
        return
    prepared = as_path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    if not is_bucket(prepared):
        check_encoding("data.data_dir=", prepared)
    if name == IMAGENET_22K and not (prepared / name).is_dir():
        raise UserError(
            f"data.source={source}: ImageNet-22k is not in {prepared}, and tensorflow-datasets cannot prepare it; give "
            "the folder of its images, with a folder for each class, as data=folder:PATH, or write records of it once: "
            f"python -m beit_jax.shard_dataset --images PATH --out {prepared} --name {name}"
        )
    if Path(source).is_dir() and not (prepared / name).is_dir():
        raise UserError(
            f"data.source={source} is a folder here, and not the name of a prepared data set; to read the images in "
            f"it, write folder:{source}"
        )
    if data_dir and not prepared.is_dir():
        raise UserError(f"data.data_dir={data_dir} is not there; expected the folder of prepared data sets")
    if data_dir and not (prepared / name).is_dir():
        found = sorted(child.name for child in prepared.iterdir() if child.is_dir())
        more = ", ..." if len(found) > SHOWN else ""
        raise UserError(
            f"data.data_dir={data_dir} has no data set {name}; found {', '.join(found[:SHOWN]) or 'nothing'}{more}"
        )
