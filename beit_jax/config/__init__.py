"""Configs: the keys that exist, their defaults, and the checks made before any device work.

A config file defines `get_config(arg="")` and starts from `defaults(task)`, so that a key is declared in one place. A
recipe (`recipe(...)`) is an ordered list of such configs.
"""

from beit_jax.config.comparison import differing_keys
from beit_jax.config.files import load, parse_arg, python_file
from beit_jax.config.help import describe_keys
from beit_jax.config.keys import Key, Keys
from beit_jax.config.op_sizes import fill_in_sizes
from beit_jax.config.overrides import override
from beit_jax.config.pretrain import tokenizer_image_size
from beit_jax.config.recipes import (
    check_stages,
    recipe,
    set_channels,
    set_source,
    shorten,
    shortened,
    stage_of,
    stages_of,
    with_untrained_parts,
)
from beit_jax.config.schema import Schema, defaults, keys_of, task_names, validate, with_task
from beit_jax.config.serialization import flatten, from_json, to_json

__all__ = [
    "Key",
    "Keys",
    "Schema",
    "check_stages",
    "defaults",
    "describe_keys",
    "differing_keys",
    "fill_in_sizes",
    "flatten",
    "from_json",
    "keys_of",
    "load",
    "override",
    "parse_arg",
    "python_file",
    "recipe",
    "set_channels",
    "set_source",
    "shorten",
    "shortened",
    "stage_of",
    "stages_of",
    "task_names",
    "to_json",
    "tokenizer_image_size",
    "validate",
    "with_task",
    "with_untrained_parts",
]
