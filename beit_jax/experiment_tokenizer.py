"""The tokenizer that a pre-training reads has the sizes of its own run: a config does not repeat them."""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax.config.keys import flatten_keys
from beit_jax.config.schema import declared_keys
from beit_jax.config.serialization import flatten
from beit_jax.config.tokenizer_kinds import KINDS
from beit_jax.errors import UserError
from beit_jax.experiment_start import take_max_value
from beit_jax.runtime.checkpoint_folder import find_checkpoint
from beit_jax.training import checkpoint


def fill_in_tokenizer(config: ConfigDict, folder: Path, pending: Mapping[str, ConfigDict]) -> ConfigDict:
    """A copy of a config whose section `tokenizer` has the sizes of the run that `tokenizer.init_from` names.

    `data.max_value` follows it too.

    A config without that section, or without a trained tokenizer, stays as it is.

    Args:
      config: valid.
      folder: of the run; the stages of a recipe have folders with the same parent.
      pending: the configs of stages that have not run yet, `{"stage:NAME": config}`.

    Raises:
      UserError: the run is no tokenizer, or a size, or `data.max_value`, was set that it does not have.
    """
    config = config.copy_and_resolve_references()
    source = config.get("tokenizer", {}).get("init_from", "random")
    if source in ("", "random"):
        return config
    trained = pending.get(source) or _config_of(source, folder)
    if trained.get("task", None) != "tokenizer":
        raise UserError(
            f"tokenizer.init_from={source} is a run of the task {trained.get('task', None)!r}; expected a tokenizer"
        )
    section, declared = config.tokenizer, declared_keys(config)
    if section.kind != trained.model.kind:
        raise UserError(
            f"tokenizer.init_from={source} is a tokenizer of the kind {trained.model.kind!r}, and the config is one "
            f"for {section.kind!r}; give kind={trained.model.kind} to configs/pretrain.py, or start a config of "
            f"your own from defaults({config.task!r}, {trained.model.kind!r})"
        )
    set_by_user, theirs = flatten(section), flatten(trained.model)
    for name in flatten_keys(KINDS.find(section.kind).keys):
        if set_by_user[name] not in (theirs[name], declared[f"tokenizer.{name}"].default):
            raise UserError(
                f"tokenizer.{name}={set_by_user[name]!r}, but {source} has {theirs[name]!r}; leave the key out: a "
                "tokenizer has the sizes of its run"
            )
        section.update_from_flattened_dict({name: theirs[name]})
    take_max_value(config, trained, f"tokenizer.init_from={source}", is_exact=True)
    return config


def _config_of(source: str, folder: Path) -> ConfigDict:
    found = find_checkpoint(source, folder.parent)
    try:
        return configs.from_json(checkpoint.load_config(found))
    except ValueError as error:
        raise UserError(f"tokenizer.init_from={source}: {found} does not hold the config of a run ({error})") from error
