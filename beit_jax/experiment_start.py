"""What a run takes over from the run that it starts from, besides parameters: pixel statistics and names of classes.

An encoder goes on seeing pixels as in its pre-training, and a classifier goes on knowing its classes by their numbers.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from beit_jax.config import fill_in_sizes, flatten, from_json, statistics
from beit_jax.config.op_sizes import OPS, uses_statistics
from beit_jax.errors import UserError
from beit_jax.models.pixel_statistics import Statistics
from beit_jax.runtime.checkpoint_folder import find_checkpoint, own_checkpoints
from beit_jax.training import checkpoint

KEYS = ("resume_from", "init_from", "encoder.init_from")  # what a run starts from; the first that is set
NO_CONFIG = ConfigDict()


class Start(NamedTuple):
    """Where a run starts.

    Attributes:
      config: of the run that it continues or starts from; empty: it starts from scratch, or that run's is not known.
      source: that run in words.
      continues: whether it is the same run, so that its classes have their numbers already.
    """

    config: ConfigDict = NO_CONFIG
    source: str = ""
    continues: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes of that run; empty: it has none, or they are not known."""
        return tuple(self.config.get("labels", ()))

    @property
    def statistics(self) -> Statistics | None:
        """By which that run normalizes images; None: it does not, or this is not known."""
        return next(iter(_normalizations(self.config).values()), None)


def find_start(config: ConfigDict, folder: Path, pending: Mapping[str, ConfigDict]) -> Start:
    """Where a run starts: its own newest checkpoint, or else what its config names.

    Args:
      config: valid.
      folder: of the run; the stages of a recipe have folders with the same parent.
      pending: the configs of stages that have not run yet, `{"stage:NAME": config}`, complete.
    """
    for own in own_checkpoints(folder):  # the newest one may be damaged; all are of the same config
        if found := _config_of(str(own), folder):
            return Start(found, str(folder), continues=True)
    for key in KEYS:
        section, _, name = key.rpartition(".")
        source = (config.get(section, NO_CONFIG) if section else config).get(name, "")
        if source and source != "random":
            found = pending[source] if source in pending else _config_of(source, folder)
            return Start(found, source, continues=key == "resume_from")
    return Start()


def start_at(found: Path, name: str) -> Start:
    """The start from a checkpoint, as the same run.

    Args:
      found: the checkpoint, from `find_checkpoint`.
      name: of it, for messages.
    """
    return Start(_config_of(str(found), found), name, continues=True)


def _config_of(source: str, folder: Path) -> ConfigDict:
    """The config of a checkpoint; an empty one if it cannot be read, which is told when parameters are loaded."""
    try:
        return from_json(checkpoint.load_config(find_checkpoint(source, folder.parent)))
    except (UserError, ValueError):
        return NO_CONFIG


def fill_in_labels(config: ConfigDict, start: Start) -> ConfigDict:
    """A copy of a config that names the classes of the run that it continues, unless it names classes itself."""
    config = config.copy_and_resolve_references()
    if start.continues and "labels" in config:
        config.labels = config.labels or start.labels
    return config


def fill_in_statistics(config: ConfigDict, start: Start) -> ConfigDict:
    """A copy of a config with `data.statistics`, if it uses them: those of the start, unless the config has others.

    Warns if images would be normalized in another way than those that the encoder has learned from, or in the
    evaluation in another way than in the training. `data.max_value`, by which pixels are divided first, is taken too.
    """
    config, theirs = config.copy_and_resolve_references(), start.statistics
    take_max_value(config, start.config, start.source)
    if theirs is not None and not config.data.statistics and len(theirs[0]) != config.data.channels:
        theirs = None  # of an encoder whose projection of patches is inflated
    if theirs is None and uses_statistics(config) and statistics.need_measuring(config):
        raise UserError(
            f"data.statistics is empty, and of images of {config.data.channels} channels nothing is known: measure "
            "them with python -m beit_jax.measure_statistics, which takes the arguments of train, or give "
            "--config.data.statistics=inception, 0.5 and 0.5 for each channel"
        )
    if not config.data.statistics and uses_statistics(config):
        config.data.statistics = statistics.as_text(statistics.of_config(config) if theirs is None else theirs)
    ours = list(_normalizations(config).items())
    if start.source and not theirs and ours:
        logging.getLogger("beit_jax").warning(
            "%s does not tell by which statistics its images were normalized; %s have %s, which data.statistics sets",
            *(start.source, ours[0][0], statistics.as_text(ours[0][1])),
        )
    known = [(f"{start.source} was trained with", theirs)] if theirs else [(f"{key} have", pair) for key, pair in ours]
    for key, pair in ours:
        (who, first), *_ = known
        if pair != first:
            logging.getLogger("beit_jax").warning(
                "%s normalize images by the statistics %s, and %s %s: the encoder sees other pixels than those it has "
                "learned from; leave out statistics= and data.statistics, and write normalize(statistics), to take "
                "the same everywhere",
                *(key, statistics.as_text(pair), who, statistics.as_text(first)),
            )
            break
    return config


def take_max_value(config: ConfigDict, theirs: ConfigDict, source: str, *, is_exact: bool = False) -> None:
    """Sets, in place, `data.max_value` of a config to that of what it reads, if the config has none.

    Warns if the config has another one.

    Args:
      config: of a run.
      theirs: the config of a network that it starts from or reads.
      source: that in words.
      is_exact: whether another one is refused.

    Raises:
      UserError: see `is_exact`.
    """
    data = theirs.get("data", NO_CONFIG)
    if data.get("channels", config.data.channels) != config.data.channels:
        return
    ours, other = config.data.max_value, data.get("max_value", 0.0)
    if not ours and other:
        config.data.max_value = other
    elif ours != other and (other or data.get("source", "") == config.data.source):
        found = f"data.max_value={ours:g}, and {source} was trained with {other:g}, so that it saw other pixels"
        if is_exact:
            raise UserError(f"{found}; leave the key out")
        logging.getLogger("beit_jax").warning("%s; leave the key out to take the same", found)


def _normalizations(config: ConfigDict) -> dict[str, Statistics]:
    """The statistics of the op `normalize` in each chain of ops that has one, by the key of the chain."""
    found = {}
    try:
        filled = flatten(fill_in_sizes(config)) if "data" in config else {}
        for key in OPS:
            if pair := statistics.of_ops(filled.get(key, "")):
                found[key] = pair
    except (UserError, ValueError):  # `validate` and the input refuse such ops
        return {}
    return found
