"""The grids of patches of a config and of a checkpoint, where they are rectangles."""

from pathlib import Path

from ml_collections import ConfigDict

from beit_jax.config import from_json
from beit_jax.config.encoder import patch_grid
from beit_jax.errors import UserError
from beit_jax.runtime.checkpoint_folder import find_checkpoint
from beit_jax.training import checkpoint


def grid_of_model(config: ConfigDict) -> tuple[int, int] | None:
    """Rows and columns of patches of a config's model; None if squares need not be told, or there are no patches."""
    model = config.get("model", {})
    is_square = "variant" not in model or isinstance(model.image_size, int)
    return None if is_square else patch_grid(model)


def grid_of_source(source: str, run: Path) -> tuple[int, int] | None:
    """As `grid_of_model`, of a checkpoint; None also of a stage that has not run."""
    try:
        return grid_of_model(from_json(checkpoint.load_config(find_checkpoint(source, run.parent))))
    except (UserError, ValueError):
        return None
