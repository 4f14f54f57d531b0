"""The grids of patches of a config, of a checkpoint and of a stage that has not run, between which positions change."""

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


def grid_of_source(source: str, run: Path, pending: Mapping[str, PendingStage]) -> tuple[int, int] | None:
    """As `grid_of_model`, of a checkpoint or a pending stage; None also of one whose config cannot be read."""
    try:
        if source in pending:
            return grid_of_model(pending[source].config)
        return grid_of_model(from_json(checkpoint.load_config(find_checkpoint(source, run.parent))))
    except (UserError, ValueError):
        return None
