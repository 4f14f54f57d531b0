"""Recipes: ordered lists of configs, each a stage with a folder of its own under the workdir."""

import contextlib
from collections.abc import Callable, Mapping, Sequence

from ml_collections import ConfigDict

from beit_jax.config.nearest import listed
from beit_jax.data.op_chain import join_chain, name_of, split_chain
from beit_jax.data.sources import data_sets
from beit_jax.data.sources.layout import is_folder, list_splits, path_of
from beit_jax.errors import UserError

HELD_OUT = ("train[:90%]", "train[90%:]")  # of a folder without a split for evaluation


def recipe(**stages: ConfigDict) -> ConfigDict:
    """A config of several stages, run in the order given.

    A later stage names an earlier one by `init_from="stage:NAME"`. Stages called `NAME_seed0`, `NAME_seed1`, ... are
    shown as one group, with mean and deviation.

    Raises:
      UserError: there is no stage.

    Examples:
      >>> from beit_jax.config import defaults, recipe
      >>> pretrain, finetune = defaults("pretrain"), defaults("classify")
      >>> finetune.init_from = "stage:pretrain"
      >>> recipe(pretrain=pretrain, finetune=finetune).stages
      ('pretrain', 'finetune')
    """
    if not stages:
        raise UserError("found a recipe without stages, expected at least one; does it run over seeds=0?")
    return ConfigDict(dict(stages=tuple(stages), **stages)).lock()


def stages_of(config: ConfigDict) -> dict[str, ConfigDict]:
    """The stages of a recipe by name, in order; a config without stages is one stage called after its task."""
    return {name: config[name] for name in config.get("stages", ())} or {config.task: config}


def check_stages(config: ConfigDict, check: Callable[[str, ConfigDict], None]) -> None:
    """Calls a check with the name and the config of every stage, or of a config without stages.

    Raises:
      UserError: all mistakes that the check finds; one that several stages have is told once.
    """
    if "stages" not in config:
        return check(config.get("task", ""), config)
    found: dict[str, list[str]] = {}
    for name in config.stages:
        try:
            if name not in config:
                raise UserError(f"it has no config; expected a key {name!r} beside `stages`")
            check(name, config[name])
        except UserError as error:
            for line in error.lines:
                found.setdefault(line, []).append(name)
    if found:
        raise UserError(*(f"stage{'s' * (len(names) > 1)} {listed(names)}: {line}" for line, names in found.items()))


def stage_of(config: ConfigDict, stage: str) -> ConfigDict:
    """One stage of a recipe, or a config without stages.

    Raises:
      UserError: the recipe has no such stage, or none is given for a recipe.
    """
    names = config.get("stages", ())
    if stage not in (names or ("",)):
        expected = f"--stage to name one of {', '.join(names)}" if names else "no --stage for a config without stages"
        raise UserError(f"found --stage={stage}, expected {expected}")
    return config[stage] if stage else config


def with_untrained_parts(config: ConfigDict, stage: str) -> ConfigDict:
    """A copy of a config, or of a recipe, in which one stage reads its frozen parts from no other run.

    Raises:
      UserError: see `stage_of`.
    """
    config = config.copy_and_resolve_references()
    for section in stage_of(config, stage).values():
        if isinstance(section, ConfigDict) and "init_from" in section:
            section.init_from = "random"
    if "teacher" in stage_of(config, stage):
        stage_of(config, stage).teacher.path = "random"
    return config


def shorten(config: ConfigDict, steps: int, warmup: int = 1) -> ConfigDict:
    """Changes a config, in place, to a few steps, to test that it runs (`runlocal` of the configs).

    Examples:
      >>> from beit_jax.config import defaults, shorten
      >>> config = shorten(defaults("classify"), steps=4)
      >>> config.steps, config.eval_every, config.optimizer.warmup
      (4, 2, '1 steps')
    """
    config.epochs, config.steps, config.optimizer.warmup = 0.0, steps, f"{warmup} steps"
    config.log_every = config.save_every = config.eval_every = max(steps // 2, 1)
    return config


def shortened(stages: Mapping[str, ConfigDict], steps: int) -> dict[str, ConfigDict]:
    """All stages, each made to run a few steps; in place.

    Examples:
      >>> from beit_jax.config import defaults, shortened
      >>> stages = shortened({task: defaults(task) for task in ("pretrain", "classify")}, steps=4)
      >>> [config.steps for config in stages.values()]
      [4, 4]
    """
    return {name: shorten(config, steps) for name, config in stages.items()}


def may_be_moved(source: str, other: str) -> bool:
    """Whether two values of `data.source` are paths of the same kind, which may hold the same data."""
    prefix = source.partition(":")[0]
    return (prefix == "folder" or data_sets.has_prefix(source)) and other.startswith(f"{prefix}:")


FOR_RGB = ("color_jitter", "photometric_distortion", "randaugment")


def set_channels(config: ConfigDict, channels: int) -> ConfigDict:
    """Sets, in place, the channels of the images, and leaves out the ops that are for red, green and blue.

    Examples:
      >>> from beit_jax.config import defaults, set_channels
      >>> config = defaults("classify")
      >>> config.data.ops = "decode|color_jitter(0.4)|resize(image_size)|keep('image', 'label')"
      >>> set_channels(config, 4).data.ops
      "decode | resize(image_size) | keep('image', 'label')"
    """
    config.data.channels = channels
    if channels != 3:
        for name in ("ops", "eval_ops"):
            config.data[name] = _without(config.data[name], FOR_RGB)
    return config


def _without(ops: str, names: Sequence[str]) -> str:
    """A chain without the ops of some names. What cannot be parsed stays as it is; `data` refuses it."""
    try:
        nodes = split_chain(ops)
    except SyntaxError:
        return ops
    kept = [node for node in nodes if name_of(node) not in names]
    return ops if len(kept) == len(nodes) else join_chain(kept)


def set_source(config: ConfigDict, source: str) -> ConfigDict:
    """Sets, in place, what a config reads: the data source, and the splits to train and to evaluate on.

    Of a folder without a split `validation`, a tenth of the training images is held out, chosen by a hash of their
    names; of a data set with a prefix, if it has no second split. Other sources have the splits that their data sets
    usually have.

    Examples:
      >>> from beit_jax.config import defaults, set_source
      >>> data = set_source(defaults("classify"), "cifar10").data
      >>> data.source, data.split, data.eval_split
      ('cifar10', 'train', 'test')
    """
    config.data.source = source
    config.data.split, config.data.eval_split = "train", "validation"
    if source in ("digits", "cifar10", "cifar100"):
        config.data.eval_split = "test"
    elif data_sets.has_prefix(source):
        with contextlib.suppress(UserError):  # told when the data are checked, with everything else
            config.data.split, config.data.eval_split = data_sets.default_splits(source)
    elif (folder := path_of(source)) and is_folder(folder) and "validation" not in list_splits(folder):
        config.data.split, config.data.eval_split = HELD_OUT
    return config
