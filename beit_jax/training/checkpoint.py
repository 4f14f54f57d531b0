"""Checkpoints: Orbax, asynchronous, atomic.

Where a run starts, first match wins:
  1. the newest checkpoint in its own folder that can be read (a broken one is set aside, and said so),
  2. `resume_from`: the whole state of another run,
  3. `init_from`: the parameters of another run, merged by name,
  4. from scratch.

A checkpoint holds the items `params`, `ema` (where the run keeps averaged parameters), `state` (step and optimizer
state) and `meta` (config, versions). The position in the data needs no item: it is a function of the step.
"""

import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from beit_jax import __version__
from beit_jax.errors import UserError
from beit_jax.training.params import map_names
from beit_jax.training.state import TrainState

FOLDER = "checkpoints"
# What Orbax and its storage raise for files that are cut off, changed or gone. Anything else, such as a lack of memory,
# says nothing about the checkpoint.
DAMAGE = (ValueError, KeyError, TypeError, OSError, EOFError)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run: Path, keep: int = 1):
        """
        Args:
          run: the run's folder; checkpoints lie in `checkpoints/STEP` below it.
          keep: how many of the newest are kept.
        """
        self._folder = (run / FOLDER).absolute()
        options = ocp.CheckpointManagerOptions(preservation_policy=preservation_policy.LatestN(keep))
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest_step(self) -> int | None:
        """The newest step saved, whether or not it can be read."""
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int, meta: Mapping[str, Any]) -> None:
        """Starts to write the state; returns as soon as it is copied off the devices.

        Errors of an earlier save that failed in the background are raised here.
        """
        items = {
            "params": ocp.args.StandardSave(state.params),
            "state": ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
            "meta": ocp.args.JsonSave({"versions": _versions(), **meta}),
        }
        if state.ema is not None:
            items["ema"] = ocp.args.StandardSave(state.ema)
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The newest state that can be read, or None where none was ever saved.

        Newer ones that cannot be read are set aside, once a good one is found.

        Args:
          abstract: shapes, dtypes and shardings of the state (`jax.ShapeDtypeStruct`).

        Raises:
          UserError: no checkpoint can be read, or one is of another model; they stay where they are.
        """
        broken: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state = restore(self._folder / str(step), abstract)
            except DAMAGE as error:
                broken[step] = error
                continue
            for newer, error in broken.items():
                self._set_aside(newer, error)
            return state
        if broken:
            raise UserError(
                f"none of the checkpoints in {self._folder} can be read ({first_line(broken[max(broken)])}); delete "
                "that folder to start from scratch"
            )
        return None

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _set_aside(self, step: int, error: Exception) -> None:
        """A step that stays in place would make Orbax refuse to save that step again, without a word."""
        broken = self._folder / str(step)
        names = (f"{step}.broken{number or ''}" for number in itertools.count())
        aside = next(path for path in map(self._folder.joinpath, names) if not path.exists())
        broken.rename(aside)
        self._manager.reload()
        warnings.warn(
            f"checkpoint {broken} cannot be read ({first_line(error)}); set aside as {aside.name}, using the one "
            "before it",
            stacklevel=3,
        )


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
    with ocp.StandardCheckpointer() as checkpointer:
        read = {name: checkpointer.restore(checkpoint / name, item) for name, item in items.items()}
    return TrainState(params=read["params"], ema=read.get("ema"), **read["state"])


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
        meta = {"versions": _versions(), "config": config}
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
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(item, abstract)
    except DAMAGE as error:
        raise UserError(f"checkpoint {item} cannot be read ({first_line(error)}); choose another") from error


def load_config(checkpoint: Path) -> str:
    """The config, as text of `config.to_json`, of the run that wrote a checkpoint.

    Raises:
      UserError: the checkpoint holds none.
    """
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            return checkpointer.restore(checkpoint / "meta")["config"]
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


def _versions() -> dict[str, str]:
    import flax
    import optax

    return {module.__name__: module.__version__ for module in (jax, flax, optax, ocp)} | {"beit_jax": __version__}
