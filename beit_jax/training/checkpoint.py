"""Checkpoints: how they are found and read; `saving` writes them, with Orbax, asynchronous and atomic.

Where a run starts, first match wins:
  1. the newest checkpoint in its own folder that can be read (a broken one is set aside, and said so),
  2. `resume_from`: the whole state of another run,
  3. `init_from`: the parameters of another run, merged by name,
  4. from scratch.

A checkpoint holds the items `params`, `ema` (where the run keeps averaged parameters), `state` (step and optimizer
state) and `meta` (config, versions). The position in the data needs no item: it is a function of the step.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from beit_jax import __version__
from beit_jax.errors import UserError
from beit_jax.training.params import map_names
from beit_jax.training.train_step import TrainState

FOLDER = "checkpoints"
# What Orbax and its storage raise for files that are cut off, changed or gone. Anything else, such as a lack of memory,
# says nothing about the checkpoint.
DAMAGE = (ValueError, KeyError, TypeError, OSError, EOFError)


def is_ours(folder: Path) -> bool:
    """Whether a folder is a run, a recipe of runs, or something that `locate` finds in them."""
    return any(any(folder.glob(pattern)) for pattern in (FOLDER, f"*/{FOLDER}", "params", "*/params"))


def locate(path: str, recipe: Path | None = None) -> Path:
    """The newest checkpoint of a run folder, or the checkpoint folder itself.

    Args:
      path: a folder, or `stage:NAME`.
      recipe: the folder whose subfolders are stages.

    Raises:
      UserError: there is none; names the stages where the folder is that of a recipe.
    """
    scheme, _, stage = path.partition(":")
    folder = (recipe / stage if recipe and scheme == "stage" else Path(path)).absolute()
    if (folder / "params").is_dir():
        return folder
    for parent in (folder / FOLDER, folder):
        if parent.is_dir():
            steps = sorted(
                int(child.name) for child in parent.iterdir() if child.name.isdigit() and any(child.iterdir())
            )
            if steps:
                return parent / str(steps[-1])
    stages = sorted(child.parent.name for child in folder.glob(f"*/{FOLDER}"))
    if stages:
        raise UserError(
            f"{path} holds several runs; name one of them: {', '.join(f'{path}/{stage}' for stage in stages)}"
        )
    raise UserError(f"{path} holds no checkpoint; expected the folder of a run (with {FOLDER}/ in it) or a checkpoint")


def shapes_of(checkpoint: Path) -> dict[str, Any]:
    """Shapes and dtypes of what `load_params` would load (`jax.ShapeDtypeStruct`).

    Raises:
      UserError: the checkpoint cannot be read.
    """
    item = checkpoint / ("ema" if (checkpoint / "ema").is_dir() else "params")
    try:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), _metadata(item))
    except DAMAGE as error:
        raise UserError(f"checkpoint {item} cannot be read ({first_line(error)}); choose another") from error


def restore(checkpoint: Path, abstract: TrainState) -> TrainState:
    """The state of one checkpoint.

    Args:
      checkpoint: from `locate`.
      abstract: shapes, dtypes and shardings of the state (`jax.ShapeDtypeStruct`).

    Raises:
      UserError: the checkpoint is readable and holds other parameters than `abstract`.
      Exception: one of `DAMAGE` where it cannot be read.
    """
    items = {"params": abstract.params, "state": {"step": abstract.step, "opt_state": abstract.opt_state}}
    if abstract.ema is not None:
        items["ema"] = abstract.ema
    for item, expected in items.items():
        _check_shapes(checkpoint / item, expected)
    with _known_damage(), ocp.StandardCheckpointer() as checkpointer:
        read = {name: checkpointer.restore(checkpoint / name, item) for name, item in items.items()}
    return TrainState(params=read["params"], ema=read.get("ema"), **read["state"])


@contextlib.contextmanager
def _known_damage() -> Iterator[None]:
    """Where an array's file is cut short or gone, Orbax raises a bare `Exception`."""
    try:
        yield
    except Exception as error:
        if type(error) is Exception:
            raise ValueError(str(error)) from error
        raise


def _check_shapes(item: Path, expected: Any) -> None:
    found, wanted = _shapes(_metadata(item)), _shapes(expected)
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise UserError(
                f"checkpoint {item} is of another model or optimizer: {name} is {found.get(name)} there and "
                f"{wanted.get(name)} here; use the config that it was made with"
            )


def save_params(run: Path, params: Mapping[str, Any], config: str) -> None:
    """Writes parameters without a train state, as step 0 of a run; `init_from` and `evaluate` read them.

    Args:
      run: the folder of the run.
      params: tree of arrays.
      config: text of `config.to_json`.
    """
    with ocp.CheckpointManager((run / FOLDER).absolute()) as manager:
        meta = {"versions": versions(), "config": config}
        manager.save(0, args=ocp.args.Composite(params=ocp.args.StandardSave(params), meta=ocp.args.JsonSave(meta)))


def load_params(checkpoint: Path, sharding: jax.sharding.Sharding) -> dict[str, Any]:
    """The parameters of a checkpoint; the averaged ones where the run kept them.

    Args:
      checkpoint: from `locate`.
      sharding: where every array is put.

    Raises:
      UserError: the checkpoint cannot be read.
    """
    item = checkpoint / ("ema" if (checkpoint / "ema").is_dir() else "params")
    shapes = shapes_of(checkpoint)
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)
    try:
        with _known_damage(), ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(item, abstract)
    except DAMAGE as error:
        raise UserError(f"checkpoint {item} cannot be read ({first_line(error)}); choose another") from error


def load_config(checkpoint: Path) -> str:
    """The config, as text of `config.to_json`, of the run that wrote a checkpoint.

    Raises:
      UserError: the checkpoint holds none.
    """
    return load_meta(checkpoint)["config"]


def load_meta(checkpoint: Path) -> dict[str, Any]:
    """What was given to `Checkpoints.save` as `meta`, and the versions of the libraries.

    Raises:
      UserError: the checkpoint holds none.
    """
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            return checkpointer.restore(checkpoint / "meta")
    except DAMAGE as error:
        raise UserError(
            f"checkpoint {checkpoint} does not say which config made it ({first_line(error)}); give it: --config FILE"
        ) from error


def first_line(error: Exception) -> str:
    """Type and beginning of an error's message, for a message of one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _metadata(item: Path) -> Any:
    metadata = ocp.StandardCheckpointHandler().metadata(item)
    if metadata is None:
        raise ValueError("no metadata")
    return metadata.tree


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    shapes = {}
    map_names(lambda name, leaf: shapes.setdefault(name, tuple(leaf.shape)), tree)
    return shapes


def versions() -> dict[str, str]:
    """Of the libraries that write a checkpoint."""
    import flax
    import optax

    return {module.__name__: module.__version__ for module in (jax, flax, optax, ocp)} | {"beit_jax": __version__}
