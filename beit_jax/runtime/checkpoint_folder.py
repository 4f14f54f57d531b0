"""Where checkpoints lie on disk: finds them without JAX, so that a missing one is reported at once."""

from pathlib import Path

from beit_jax.errors import UserError
from beit_jax.runtime.paths import as_path
from beit_jax.runtime.urls import is_bucket

FOLDER = "checkpoints"
TEMPORARY = "orbax-checkpoint-tmp"  # in the name of a checkpoint that was not completed
CHECKSUMS = "checksums.json"  # in a checkpoint that was complete when they were written
COMMITTED = "commit_success.txt"  # in a checkpoint in a bucket that was completed
FOREIGN = (".safetensors", ".bin", ".pth", ".pt", ".pkl", ".ckpt")  # suffixes of the files of other libraries


def holds_checkpoint(folder: Path) -> bool:
    """Whether a folder is a run, a recipe of runs, a checkpoint, or a folder of checkpoints."""
    return any(any(folder.glob(pattern)) for pattern in (FOLDER, f"*/{FOLDER}", "params", "*/params"))


def has_checkpoint(run: Path) -> bool:
    """Whether a run has a checkpoint of its own, from which it goes on, be it a damaged one."""
    found = (run / FOLDER).iterdir() if (run / FOLDER).is_dir() else ()
    return any(child.is_dir() and _is_complete(child) for child in found)


def own_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run itself, the newest one first, damaged ones among them."""
    found = (run / FOLDER).iterdir() if (run / FOLDER).is_dir() else ()
    complete = (child for child in found if child.name.isdigit() and _is_complete(child))
    return sorted(complete, key=lambda child: -int(child.name))


def _is_complete(checkpoint: Path) -> bool:
    """Whether Orbax has ended writing: it renames a folder then, and in a bucket, which cannot, adds an object."""
    if is_bucket(checkpoint):  # the second one: a copy from a disk
        return (checkpoint / COMMITTED).is_file() or (checkpoint / CHECKSUMS).is_file()
    return TEMPORARY not in checkpoint.name


def commit_copies(run: Path) -> None:
    """Marks the checkpoints of a run in a bucket that were copied there from a disk, which Orbax would delete else."""
    for copy in own_checkpoints(run) if is_bucket(run) else ():
        if not (copy / COMMITTED).is_file():
            items = [child for child in copy.iterdir() if child.is_dir()]
            for folder in (*items, copy):
                (folder / COMMITTED).write_text("This checkpoint was copied from a disk.\n")


def find_checkpoint(path: str, recipe: Path | None = None) -> Path:
    """The newest checkpoint of a run, or the path itself where it is a checkpoint.

    Args:
      path: a folder, or `stage:NAME`.
      recipe: the folder whose subfolders are stages.

    Raises:
      UserError: there is none; where the folder is that of a recipe, the message names its stages.
    """
    scheme, _, stage = path.partition(":")
    folder = (recipe / stage if recipe and scheme == "stage" else as_path(path)).absolute()
    if (folder / "params").is_dir():
        return folder
    for parent in (folder / FOLDER, folder):
        if parent.is_dir():
            steps = sorted(
                int(child.name)
                for child in parent.iterdir()
                if child.name.isdigit() and _is_complete(child) and any(child.iterdir())
            )
            if steps:
                return parent / str(steps[-1])
    stages = sorted(child.parent.name for child in folder.glob(f"*/{FOLDER}"))
    if stages:
        raise UserError(
            f"{path} holds several runs; name one of them: {', '.join(f'{path}/{stage}' for stage in stages)}"
        )
    if is_foreign(folder):
        raise UserError(
            f"{path} holds no checkpoint of this library; convert it, and give the new folder: python -m "
            f"beit_jax.convert {path} runs/converted --to beit_jax"
        )
    why = "" if folder.is_dir() else ": it is a file" if folder.exists() else ": there is no such folder"
    raise UserError(
        f"{path} holds no checkpoint{why}; expected the folder of a run (with {FOLDER}/ in it) or a checkpoint"
    )


def is_foreign(path: Path) -> bool:
    """Whether a path is a file, or a folder with files, in which other libraries keep parameters."""
    files = path.iterdir() if path.is_dir() else [path] if path.is_file() else []
    return any(file.suffix in FOREIGN for file in files)
