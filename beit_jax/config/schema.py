"""The tasks that configs can name, the keys of each, and the checks that need no device and no data."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from beit_jax.config import (
    classify,
    pretrain,
    pretrain_features,
    pretrain_pixels,
    probe,
    segment,
    tokenizer,
    tokenizer_kinds,
)
from beit_jax.config.durations import check_duration, in_steps
from beit_jax.config.keys import Key, Keys, default_values, flatten_keys
from beit_jax.config.nearest import describe_unknown
from beit_jax.config.op_sizes import fill_in_sizes
from beit_jax.config.recipes import check_stages
from beit_jax.config.registry import Registry
from beit_jax.config.serialization import flatten
from beit_jax.config.shared import shared_keys
from beit_jax.errors import Mistakes, UserError


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a task declares.

    Attributes:
      keys: beside the shared ones, or a function that makes them for a kind of tokenizer.
      check: raises a UserError for values that do not go together; they have types and ranges already.
    """

    keys: Keys | Callable[[str], Keys]
    check: Callable[[ConfigDict], None] = lambda config: None


TASKS = Registry(
    "task",
    {
        "tokenizer": Schema(tokenizer.keys, tokenizer.check),
        "pretrain": Schema(pretrain.keys, pretrain.check),
        "pretrain_pixels": Schema(pretrain_pixels.KEYS, pretrain_pixels.check),
        "pretrain_features": Schema(pretrain_features.KEYS, pretrain_features.check),
        "classify": Schema(classify.KEYS, classify.check),
        "probe": Schema(probe.KEYS, probe.check),
        "segment": Schema(segment.KEYS, segment.check),
    },
)


def task_names() -> tuple[str, ...]:
    """The tasks that configs can name.

    Examples:
      >>> from beit_jax.config import task_names
      >>> task_names()[:2]
      ('tokenizer', 'pretrain')
    """
    return TASKS.names


def keys_of(task: str, tokenizer_kind: str = "dvae") -> Keys:
    """All keys of a task.

    Raises:
      UserError: the task or the kind of tokenizer is unknown.

    Examples:
      >>> from beit_jax.config import keys_of
      >>> keys_of("classify")["optimizer"]["clip_norm"].help
      'largest norm of the gradient; 0: no clipping'
    """
    own = TASKS.find(task).keys
    return _joined(shared_keys(task), own(tokenizer_kind) if callable(own) else own)


def declared_keys(config: ConfigDict) -> dict[str, Key]:
    """The keys that a config may hold, flattened: `{"optimizer.lr": Key(...), ...}`.

    Raises:
      UserError: the task or the kind of tokenizer is unknown.
    """
    return flatten_keys(keys_of(config.get("task", None), tokenizer_kinds.kind_of(config)))


def durations_in_steps(config: ConfigDict, steps_per_epoch: int, total: int) -> ConfigDict:
    """A copy of a valid config in which every duration is in steps, such as "200 steps"; empty ones stay empty."""
    config = config.copy_and_resolve_references()
    for name, key in declared_keys(config).items():
        if key.check is check_duration and (text := flatten(config)[name]):
            config.update_from_flattened_dict({name: f"{in_steps(text, steps_per_epoch, total)} steps"})
    return config


def defaults(task: str, tokenizer_kind: str = "dvae") -> ConfigDict:
    """A config with all keys of a task at their defaults, locked.

    Raises:
      UserError: the task or the kind of tokenizer is unknown.

    Examples:
      >>> from beit_jax.config import defaults
      >>> config = defaults("classify")
      >>> config.optimizer.lr = 1e-3
      >>> config.model.variant, config.model.image_size
      ('B/16', 224)
      >>> defaults("pretrain", "kmeans").tokenizer.kind
      'kmeans'
    """
    return default_values(keys_of(task, tokenizer_kind)).lock()


def with_task(config: ConfigDict, task: str) -> ConfigDict:
    """A config of another task with the same settings: keys that both tasks have keep their values.

    Raises:
      UserError: the task is unknown.

    Examples:
      >>> from beit_jax.config import defaults, with_task
      >>> config = defaults("classify")
      >>> config.model.image_size = 96
      >>> with_task(config, "segment").model.image_size
      96
    """
    other = defaults(task)
    known = flatten(other)
    shared = {key: value for key, value in flatten(config).items() if key in known and key != "task"}
    other.update_from_flattened_dict(shared)
    return other


def validate(config: ConfigDict) -> None:
    """Checks a config, or every stage of a recipe.

    Values that must go together are compared if each of them is right by itself.

    Raises:
      UserError: everything that is wrong, each with the key, what was found and what is expected.

    Examples:
      >>> from beit_jax.config import defaults, validate
      >>> config = defaults("classify")
      >>> config.batch_size, config.keep = 0, 0
      >>> validate(config)
      Traceback (most recent call last):
      beit_jax.errors.UserError: 2 things are wrong:
        batch_size=0; expected at least 1
        keep=0; expected at least 1
    """
    stages = list(config.get("stages", ()))

    def check(name: str, run: ConfigDict) -> None:
        mistakes = Mistakes()
        with mistakes.collected():
            _validate_run(run)
        with mistakes.collected():
            if stages:
                _check_stage_references(run, stages[: stages.index(name)])
        mistakes.raise_all()

    check_stages(config, check)


def _joined(keys: Keys, more: Keys) -> dict[str, Any]:
    """Two trees of keys as one; in sections that both have, those of the second win."""
    joined = dict(keys)
    for name, key in more.items():
        both = isinstance(key, Mapping) and isinstance(joined.get(name), Mapping)
        joined[name] = _joined(joined[name], key) if both else key
    return joined


def _validate_run(config: ConfigDict) -> None:
    task = config.get("task", None)
    schema, mistakes = TASKS.find(task), Mistakes()
    declared, values = declared_keys(config), flatten(config)
    for name in (name for name in values if name not in declared):
        mistakes.add(describe_unknown(defaults(task, tokenizer_kinds.kind_of(config)), name))
    for name, key in declared.items():
        with mistakes.collected():
            if name not in values:
                raise UserError(f"config key {name!r} is missing; its default is {key.default!r}")
            key.validate(name, values[name])
    if not mistakes:
        for check in (_check_lengths, _check_ops, schema.check):
            with mistakes.collected():
                check(config)
    if not mistakes:
        fill_in_sizes(config)  # raises if the ops name a size that there is not
    mistakes.raise_all()


def _check_lengths(config: ConfigDict) -> None:
    mistakes = Mistakes()
    if config.epochs and config.steps:
        mistakes.add(f"epochs={config.epochs:g} and steps={config.steps}: give one of them, and not both")
    if config.batch_size % config.optimizer.accumulate:
        mistakes.add(
            f"batch_size={config.batch_size} is not divisible by optimizer.accumulate={config.optimizer.accumulate}"
        )
    mistakes.raise_all()


def _check_ops(config: ConfigDict) -> None:
    mistakes = Mistakes()
    for name in ("ops", "eval_ops"):
        if not config.data[name]:
            mistakes.add(f"data.{name} is empty; expected operations such as 'decode|resize(224)'")
    mistakes.raise_all()


def _check_stage_references(config: ConfigDict, earlier: list[str]) -> None:
    mistakes = Mistakes()
    for name, value in flatten(config).items():
        if isinstance(value, str) and value.startswith("stage:") and value.removeprefix("stage:") not in earlier:
            mistakes.add(f"{name}={value!r} names no earlier stage; there are: {', '.join(earlier) or 'none'}")
    mistakes.raise_all()
