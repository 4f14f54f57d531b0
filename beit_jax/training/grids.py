"""The images that a config, a checkpoint or a stage that has not run is for: their channels and grids of patches."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from beit_jax.config import from_json
from beit_jax.config.encoder import patch_grid
from beit_jax.errors import UserError
from beit_jax.runtime.checkpoint_folder import find_checkpoint
from beit_jax.training import checkpoint
from beit_jax.typing import Params


class PendingStage(NamedTuple):
    """A stage that has not run yet: its config, complete, and the shapes of its parameters."""

    config: ConfigDict
    shapes: Params


def grid_of_model(config: ConfigDict) -> tuple[int, int] | None:
    """Rows and columns of patches of a config's model; None if it has none."""
    model = config.get("model", {})
    return patch_grid(model) if "variant" in model else None


def config_of_source(source: str, run: Path, pending: Mapping[str, PendingStage]) -> ConfigDict:
    """The config of a checkpoint or of a pending stage; empty if it cannot be read."""
    try:
        if source in pending:
            return pending[source].config
        return from_json(checkpoint.load_config(find_checkpoint(source, run.parent)))
    except (UserError, ValueError):
        return ConfigDict()


def check_same_channels(config: ConfigDict, theirs: ConfigDict) -> None:
    """
    Raises:
      UserError: what a run reads is for images of other channels.
    """
    channels = theirs.get("data", {}).get("channels", config.data.channels)
    if channels != config.data.channels:
        raise UserError(
            f"it is for images of {channels} channels, and data.channels={config.data.channels}; expected one of the "
            "same channels"
        )
