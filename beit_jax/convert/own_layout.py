"""The format `safetensors`: any model of this library without Orbax, for the hub.

A folder with `model.safetensors`, whose tensors have this library's names, and `config.json`, which holds the config of
the run under the key `config`. What it says of the machine that trained the model is left out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from beit_jax import __version__
from beit_jax import config as configs
from beit_jax.config.recipes import with_untrained_parts
from beit_jax.config.schema import declared_keys
from beit_jax.convert import locate, safetensors_file, settings_limits, shards
from beit_jax.data.sources import data_sets
from beit_jax.errors import UserError
from beit_jax.training.params import unflatten
from beit_jax.training.plausible import check_numbers

LIBRARY, NAME = "library_name", "beit_jax"  # in config.json
SETTINGS = "config.json"


def is_own(path: Path) -> bool:
    """Whether a folder, or a file of weights in it, is of this format."""
    file = path / SETTINGS if path.is_dir() else path.with_name(SETTINGS)
    return settings_limits.read_settings(file).get(LIBRARY) == NAME


def write(folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict, max_shard_size: int | str) -> None:
    """Writes parameters by their names, and the config of a run."""
    shards.write_tensors(folder, flat, max_shard_size)
    settings = {LIBRARY: NAME, "library_version": __version__, "config": without_paths(config).to_dict()}
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def without_paths(config: ConfigDict) -> ConfigDict:
    """A copy of a config that says nothing of the machine: no paths, no loggers, and no project of theirs.

    A frozen part that the model reads from another run is left empty, so that whoever evaluates the model must give it:
    a random one would give plausible numbers. One that was random stays so.
    """
    config = config.copy_and_resolve_references()
    declared, values = declared_keys(config), configs.flatten(config)
    cleared = {name: "" for name, key in declared.items() if key.is_path and values.get(name) not in ("", "random")}
    cleared |= {name: declared[name].default for name in ("loggers", "project") if name in declared}
    config.update_from_flattened_dict(cleared)
    if "data" in config:
        config.data.data_dir = ""
        if config.data.source.startswith("folder:") or data_sets.has_prefix(config.data.source):
            config.data.source = ""
    return config


def read(path: Path) -> tuple[dict[str, Any], ConfigDict]:
    """The parameters and the config in a folder, or beside a file, of this format.

    Raises:
      UserError: the files are damaged, or do not hold the config of a run.
    """
    weights = locate.weights_file(path) if path.is_dir() else path
    file = weights.with_name(SETTINGS)
    try:
        config = configs.from_json(json.dumps(settings_limits.read_settings(file)["config"]))
        configs.validate(with_untrained_parts(config, ""))
    except UserError as error:
        raise UserError(*(f"{file}: {line}" for line in error.lines)) from error
    except Exception as error:  # whatever the checks run into, where a section is a number
        raise UserError(f"{file} does not hold the config of a run ({type(error).__name__}: {error})") from error
    is_index = shards.is_index(weights)
    read_file = safetensors_file.read_tensors
    tensors = shards.read_tensors(weights, read_file) if is_index else read_file(weights)
    check_numbers(tensors, path)
    return unflatten(tensors), config
