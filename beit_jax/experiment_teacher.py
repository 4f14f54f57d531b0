"""The teacher that the training of a tokenizer reads has the sizes of its own run: a config does not repeat them."""

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax.config import statistics
from beit_jax.config import teacher as keys
from beit_jax.errors import Mistakes, UserError
from beit_jax.experiment_start import Start, take_max_value
from beit_jax.runtime.checkpoint_folder import find_checkpoint, is_foreign
from beit_jax.runtime.paths import as_path
from beit_jax.tasks.teachers import create_teacher
from beit_jax.training import checkpoint
from beit_jax.training.params import flatten

TASK = "teacher"  # of the config of a converted teacher
UNSET = keys.KEYS["kind"].default  # then a run tells its kind
SIZES = ("variant", "image_size", "absolute_positions", "relative_position", "layer_scale", "norm_eps")  # of an encoder


def fill_in_teacher(config: ConfigDict, folder: Path, pending: Mapping[str, ConfigDict]) -> ConfigDict:
    """A copy of a config whose section `teacher` has the sizes of the run that `teacher.path` names.

    A config without that section stays as it is.

    Args:
      config: valid.
      folder: of the run; the stages of a recipe have folders with the same parent.
      pending: the configs of stages that have not run yet, `{"stage:NAME": config}`, complete.

    Raises:
      UserError: there is no such run, it holds no such teacher, or a key was set to something else.
    """
    config = config.copy_and_resolve_references()
    if "teacher" not in config:
        return config
    source = config.teacher.path
    if source == "random":
        return config
    name, found = f"teacher.path={source}", None if source in pending else _find(config.teacher, folder)
    theirs = pending[source] if found is None else _config_of(found, name)
    config.teacher = of_run(config.teacher, theirs, name, found and flatten(checkpoint.load_shapes(found)))
    take_max_value(config, theirs, name)
    return config


def fit_tokenizer_to_teacher(config: ConfigDict) -> ConfigDict:
    """A copy of a config whose tokenizer fits its teacher, which is complete.

    A tokenizer that predicts features gets their width; one that keeps the teacher, its keys.

    Raises:
      UserError: the config says another width, or sets other keys of the features than the teacher has, or the teacher
        sees other channels.
    """
    config = config.copy_and_resolve_references()
    model, teacher = config.get("model", {}), config.get("teacher", {})
    if teacher:
        _check_channels(teacher, config.data.channels)
    if teacher and "features" in model:
        _take_features(model.features, teacher)
    if teacher and "target_width" in model:
        width, expected = create_teacher(teacher, channels=config.data.channels).width, model.target_width
        if expected not in (0, width):
            raise UserError(
                f"teacher.path={teacher.path} has {width} numbers for a patch, and model.target_width is {expected}; "
                "leave model.target_width out"
            )
        model.target_width = width
    return config


def _check_channels(teacher: ConfigDict, channels: int) -> None:
    seen = 3 if teacher.kind == "clip" else channels
    with contextlib.suppress(UserError):
        statistics.parse(teacher.statistics or "inception", seen)
        if seen == channels:
            return
    what = "a CLIP, which sees red, green and blue" if teacher.kind == "clip" else "for images of other channels"
    raise UserError(
        f"data.channels={channels}, and the teacher {teacher.path} is {what}; expected a teacher of the same channels "
        "(teacher.kind=encoder with teacher.path=RUN), or another kind of tokenizer, such as dvae"
    )


def _take_features(features: ConfigDict, teacher: ConfigDict) -> None:
    mistakes = Mistakes()
    for name, value in teacher.items():
        if name != "path" and features[name] not in (value, keys.KEYS[name].default):
            mistakes.add(
                f"model.features.{name}={features[name]!r}, but the teacher has {value!r}; leave the key out, which "
                f"follows teacher.{name}"
            )
    mistakes.raise_all()
    features.update({name: value for name, value in teacher.items() if name != "path"})


def _find(section: ConfigDict, folder: Path) -> Path:
    try:
        return find_checkpoint(section.path, folder.parent)
    except UserError:
        if section.kind == "encoder" or not is_foreign(as_path(section.path)):
            raise
        raise UserError(
            f"teacher.path={section.path} holds no checkpoint of this library; convert it, and give the new folder: "
            f"python -m beit_jax.convert {section.path} runs/teacher --to beit_jax --teacher {section.kind}"
        ) from None


def read_run(section: ConfigDict, found: Path, source: str) -> ConfigDict:
    """The section with the sizes of a run.

    Args:
      section: as the user has set it.
      found: a checkpoint of the run.
      source: the run in words, for messages.

    Raises:
      UserError: see `of_run`; or the checkpoint cannot be read.
    """
    return of_run(section, _config_of(found, source), source, flatten(checkpoint.load_shapes(found)))


def _config_of(found: Path, source: str) -> ConfigDict:
    try:
        return configs.from_json(checkpoint.load_config(found))
    except ValueError as error:
        raise UserError(f"{source}: {found} does not hold the config of a run ({error})") from error


def of_run(
    section: ConfigDict, theirs: ConfigDict, source: str, names: Collection[str] | None = None, pixels: str = ""
) -> ConfigDict:
    """The section with what a run's config says.

    Args:
      section: as the user has set it.
      theirs: the config of the run: of a converted teacher, or of a task with an encoder.
      source: the run in words, for messages.
      names: of its parameters; None: they are not known yet.
      pixels: the statistics of its pixels, as text; empty: those of its ops.

    Raises:
      UserError: it has no such teacher, or a key was set to something else.
    """
    if theirs.get("task", None) == TASK:
        if section.kind not in (theirs.teacher.kind, UNSET):
            raise UserError(
                f"{source} is a teacher of the kind {theirs.teacher.kind!r}; expected {section.kind!r}, or "
                f"teacher.kind={theirs.teacher.kind}"
            )
        same = [name for name in keys.KEYS if name != "path"]
        return keys.take_from_weights(section, {name: theirs.teacher[name] for name in same}, source)
    model = theirs.get("model", {})
    if section.kind not in ("encoder", UNSET) or not all(name in model for name in SIZES):
        kind = "" if section.kind == UNSET else f" of the kind {section.kind!r}"
        raise UserError(
            f"{source} is a run of the task {theirs.get('task', None)!r}, and no teacher{kind}; expected a converted "
            "teacher, or, for teacher.kind=encoder, a run with an encoder, such as a pre-training"
        )
    if not section.layer and names is not None and "encoder/norm/scale" not in names:
        raise UserError(
            f"{source} has no norm after its last block; give the block to take: teacher.layer=N, counted from 1"
        )
    statistics_of_run = Start(theirs).statistics
    if not pixels and statistics_of_run:
        pixels = statistics.as_text(statistics_of_run)
    sizes = {"kind": "encoder"} | {name: model[name] for name in SIZES} | ({"statistics": pixels} if pixels else {})
    return keys.take_from_weights(section, sizes, source)
