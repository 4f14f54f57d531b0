"""Checkpoints: Orbax, asynchronous, atomic.

Where a run starts, first match wins:
  1. the newest checkpoint in its own folder that can be read (a broken one is set aside, and said so),
  2. `resume_from`: the whole state of another run,
  3. `init_from`: the parameters of another run, merged by name,
  4. from scratch.

A checkpoint holds the items `params`, `ema` (where the run keeps averaged parameters), `state` (step and optimizer
state) and `meta` (config, versions). The position in the data needs no item: it is a function of the step.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from beit_jax import __version__
from beit_jax.errors import UserError
from beit_jax.training.state import TrainState

FOLDER = "checkpoints"


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

        Args:
          abstract: shapes, dtypes and shardings of the state (`jax.ShapeDtypeStruct`).

        Raises:
          UserError: the only checkpoint left cannot be read; it stays where it is.
        """
        while steps := self._manager.all_steps():
            step = max(steps)
            try:
                return self.restore_step(step, abstract)
            except Exception as error:  # damaged files raise many types: ValueError, KeyError, FileNotFoundError, ...
                if len(steps) == 1:
                    raise UserError(
                        f"checkpoint {self._folder / str(step)} cannot be read ({_first_line(error)}) and there is no "
                        f"other; delete {self._folder} to start from scratch"
                    ) from error
                self._set_aside(step, error)
        return None

    def restore_step(self, step: int, abstract: TrainState) -> TrainState:
        """The state of one step; whatever Orbax raises where it cannot be read."""
        items = {
            "params": ocp.args.StandardRestore(abstract.params),
            "state": ocp.args.StandardRestore({"step": abstract.step, "opt_state": abstract.opt_state}),
        }
        if abstract.ema is not None:
            items["ema"] = ocp.args.StandardRestore(abstract.ema)
        read = self._manager.restore(step, args=ocp.args.Composite(**items))
        return TrainState(params=read["params"], ema=read.get("ema"), **read["state"])

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _set_aside(self, step: int, error: Exception) -> None:
        """A step that stays in place would make Orbax refuse to save that step again, without a word."""
        broken = self._folder / str(step)
        aside = self._folder / f"{step}.broken"
        broken.rename(aside)
        self._manager.reload()
        warnings.warn(
            f"checkpoint {broken} cannot be read ({_first_line(error)}); set aside as {aside.name}, using the one "
            "before it",
            stacklevel=3,
        )


def locate(path: str) -> Path:
    """The newest checkpoint of a run folder, or the checkpoint folder itself.

    Raises:
      UserError: there is none; names the stages where the folder is that of a recipe.
    """
    folder = Path(path).absolute()
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


def load_params(checkpoint: Path, sharding: jax.sharding.Sharding) -> dict[str, Any]:
    """The parameters of a checkpoint; the averaged ones where the run kept them.

    Args:
      checkpoint: from `locate`.
      sharding: where every array is put.

    Raises:
      UserError: the checkpoint cannot be read.
    """
    item = checkpoint / ("ema" if (checkpoint / "ema").is_dir() else "params")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            saved = checkpointer.metadata(item).item_metadata
            if saved is None:
                raise ValueError("no metadata")
            abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), saved)
            return checkpointer.restore(item, abstract)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"checkpoint {item} cannot be read ({_first_line(error)}); choose another") from error


def load_config(checkpoint: Path) -> str:
    """The config, as text of `config.to_json`, of the run that wrote a checkpoint."""
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        return checkpointer.restore(checkpoint / "meta")["config"]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _versions() -> dict[str, str]:
    import flax
    import optax

    return {module.__name__: module.__version__ for module in (jax, flax, optax, ocp)} | {"beit_jax": __version__}
