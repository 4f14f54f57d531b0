"""Which folder on disk is a workdir: of a run, of a recipe, or of a stage of a recipe."""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax.errors import UserError
from beit_jax.runtime.checkpoint_folder import FOLDER
from beit_jax.workdir import CONFIG


def workdir_of(folder: Path) -> Path:
    """The folder itself, which is a workdir.

    Raises:
      UserError: it is none; the message names workdirs above and below it.
    """
    if not folder.is_dir():
        found = "it is a file" if folder.exists() else "there is no such folder"
        raise UserError(f"{folder} holds no run: {found}; expected the --workdir of beit_jax.train")
    if (folder / CONFIG).is_file() or recipe_of(folder):
        return folder
    for parent in folder.resolve().parents:
        if (parent / CONFIG).is_file() or recipe_of(parent):
            raise UserError(f"{folder} lies in the run {parent}; give that folder")
    below = sorted(child.parent for child in folder.glob(f"*/{CONFIG}"))
    if below:
        raise UserError(f"{folder} holds several workdirs; give one of them or more: {' '.join(map(str, below))}")
    if (folder / FOLDER).is_dir():
        raise UserError(f"{folder} has checkpoints and no {CONFIG}; expected a --workdir of beit_jax.train")
    raise UserError(f"{folder} holds no run; expected the --workdir of beit_jax.train")


def common_folder(workdirs: Sequence[Path]) -> Path | None:
    """The deepest folder that holds all workdirs, or is one of them; None: some lie in other buckets, or on a disk."""
    above = [(path, *path.parents) for path in (workdir.resolve() for workdir in workdirs)]
    return next((folder for folder in above[0] if all(folder in folders for folders in above)), None)


def recipe_of(folder: Path) -> ConfigDict | None:
    """The config of a recipe, if a folder is that of one of its stages."""
    folder = folder.resolve()
    try:
        config = configs.from_json((folder.parent / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # also a file of another program
        return None
    stages = config.get("stages", ())
    return config if isinstance(stages, tuple) and folder.name in stages else None
