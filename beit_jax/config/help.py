"""The keys of a config as text, for `--help`."""

import textwrap
from collections.abc import Sequence

from ml_collections import ConfigDict

from beit_jax.config.keys import Key
from beit_jax.config.recipes import stages_of
from beit_jax.config.schema import declared_keys
from beit_jax.config.serialization import flatten

WIDTH, INDENT = 100, 6


def describe_keys(config: ConfigDict) -> str:
    """Every key of a config with its value and its line of help; of a recipe, the keys of each task once."""
    if "stages" not in config:
        return "\n".join(_lines(config, "--config."))
    by_task: dict[str, list[str]] = {}
    for name, stage in stages_of(config).items():
        by_task.setdefault(stage.task, []).append(name)
    lines = [f"This config has the stages {', '.join(config.stages)}."]
    for names in by_task.values():
        lines += ["", _heading(names), *_lines(config[names[0]], f"--config.{names[0]}.")]
    return "\n".join(lines)


def _heading(names: Sequence[str]) -> str:
    others = f" (the stages {', '.join(names[1:])} have the same keys)" if len(names) > 1 else ""
    return textwrap.fill(f"Keys of the stage {names[0]}{others}:", WIDTH)


def _lines(config: ConfigDict, prefix: str) -> list[str]:
    declared, values = declared_keys(config), flatten(config)
    lines = []
    for name, key in declared.items():
        if name == "task":
            continue
        lines.append(f"  {prefix}{name}={values.get(name, key.default)!r}")
        lines += textwrap.wrap(help_of(key), WIDTH, initial_indent=" " * INDENT, subsequent_indent=" " * INDENT)
    return lines


def help_of(key: Key) -> str:
    """What a key means and which values it takes, in one line."""
    limits = [f"one of {', '.join(choice or '(empty)' for choice in map(str, key.choices))}"] if key.choices else []
    limits += [key.range] if key.range else []
    return f"{key.help} [{'; '.join(limits)}]" if limits else key.help
