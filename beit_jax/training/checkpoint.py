"""Checkpoints: how they are read; `checkpoint_manager` writes them, `runtime.checkpoint_folder` finds them.

Where a run starts, first match wins:
  1. the newest checkpoint in its own folder that can be read (damaged ones are set aside, with a warning),
  2. `resume_from`: the complete state of another run,
  3. `init_from`: the parameters of another run, merged by name,
  4. from scratch.

A checkpoint holds the items `params`, `ema` (where the run keeps averaged parameters), `state` (step and optimizer
state) and `meta` (config, versions). The position in the data needs no item: it is a function of the step.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from beit_jax import __version__
from beit_jax.config.serialization import from_json
from beit_jax.errors import UserError
from beit_jax.runtime import checksums
from beit_jax.runtime.checkpoint_folder import FOLDER, find_checkpoint
from beit_jax.runtime.distributed import any_process, is_main
from beit_jax.training.params import flatten, map_names
from beit_jax.training.plausible import check_numbers
from beit_jax.training.train_step import TrainState

# What Orbax and its storage raise for files that are truncated, changed or gone. Any other error, such as a lack of
# memory, says nothing about the checkpoint.
DAMAGE_ERRORS = (ValueError, KeyError, TypeError, OSError, EOFError)


def load_shapes(checkpoint: Path) -> dict[str, Any]:
    """Shapes and dtypes of the parameters that `load_params` loads (`jax.ShapeDtypeStruct`).

    Raises:
      UserError: the checkpoint cannot be read.
    """
    item = checkpoint / ("ema" if (checkpoint / "ema").is_dir() else "params")
    try:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), _metadata(item))
    except DAMAGE_ERRORS as error:
        raise UserError(f"checkpoint {item} cannot be read ({describe_error(error)}); choose another") from error


def check_items(checkpoint: Path, items: Iterable[str]) -> None:
    """Checks that a checkpoint has these items, by reading what describes their arrays.

    Raises:
      UserError: one is missing, or cannot be read.
    """
    for item in items:
        try:
            _metadata(checkpoint / item)
        except DAMAGE_ERRORS as error:
            raise UserError(
                f"checkpoint {checkpoint} was written, and its {item} cannot be read back ({describe_error(error)}); "
                "check the disk, and run the same command again"
            ) from error


def check_bytes(checkpoint: Path, *items: str) -> None:
    """Compares a checkpoint, or some of its items, with its checksums. Every process must call it.

    Raises:
      UserError: its bytes have changed since it was written.
    """
    damage = checksums.find_damage(checkpoint, *items) if is_main() else ""
    if any_process(bool(damage)):
        raise UserError(_describe_damage(checkpoint, damage or "see process 0"))


def _describe_damage(checkpoint: Path, damage: str) -> str:
    return f"checkpoint {checkpoint} is damaged ({damage}); choose another, or copy it again"


def load_state(checkpoint: Path, abstract: TrainState) -> TrainState:
    """The state of one checkpoint.

    Args:
      checkpoint: from `find_checkpoint`.
      abstract: shapes, dtypes and shardings of the state (`jax.ShapeDtypeStruct`).

    Raises:
      UserError: the checkpoint is readable and holds other parameters than `abstract`.
      Exception: one of `DAMAGE_ERRORS` where it cannot be read.
    """
    items = {"params": abstract.params, "state": {"step": abstract.step, "opt_state": abstract.opt_state}}
    if abstract.ema is not None:
        items["ema"] = abstract.ema
    for item, expected in items.items():
        _check_shapes(checkpoint / item, expected)
    with _damage_errors(checkpoint), ocp.StandardCheckpointer() as checkpointer:
        loaded = {name: checkpointer.restore(checkpoint / name, item) for name, item in items.items()}
    return TrainState(params=loaded["params"], ema=loaded.get("ema"), **loaded["state"])


@contextlib.contextmanager
def _damage_errors(item: Path) -> Iterator[None]:
    """Raises one of `DAMAGE_ERRORS` for damage: for the file of an array that is gone, Orbax raises `Exception`.

    Raises:
      UserError: the system refuses to open a file.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if checksums.is_refusal(error):
            raise UserError(
                f"checkpoint {item} cannot be opened ({describe_error(error)}); let this user read its files, or raise "
                "the limit of open files (ulimit -n)"
            ) from error
        if type(error) is Exception:
            raise ValueError(str(error)) from error
        raise


def _check_shapes(item: Path, expected: Any) -> None:
    there, here = _shapes(_metadata(item)), _shapes(expected)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise UserError(
                f"checkpoint {item} is of another model or optimizer: {name} is {there.get(name)} there and "
                f"{here.get(name)} here; use the config that it was made with"
            )


def save_params(run: Path, params: Mapping[str, Any], config: str) -> None:
    """Writes parameters without a train state, as step 0 of a run; `init_from` and `evaluate` read them.

    One process writes them; the others of its run need not call this.

    Args:
      run: the folder of the run.
      params: tree of arrays.
      config: text of `config.to_json`.
    """
    alone = ocp.options.MultiprocessingOptions(jax.process_index(), {jax.process_index()}, "save_params")
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(create=False, multiprocessing_options=alone)
    with ocp.CheckpointManager((run / FOLDER).absolute(), options=options) as manager:
        meta = {"versions": library_versions(), "config": config}
        manager.save(0, args=ocp.args.Composite(params=ocp.args.StandardSave(params), meta=ocp.args.JsonSave(meta)))
    checksums.write_checksums(run / FOLDER / "0")


def load_params(checkpoint: Path, sharding: jax.sharding.Sharding) -> dict[str, Any]:
    """The parameters of a checkpoint; the averaged ones where the run kept such.

    Args:
      checkpoint: from `find_checkpoint`.
      sharding: of every array, on one device or replicated.

    Raises:
      UserError: the checkpoint cannot be read, its bytes have changed since it was written, or it holds numbers that no
        network has.
    """
    item = checkpoint / ("ema" if (checkpoint / "ema").is_dir() else "params")
    shapes = load_shapes(checkpoint)
    check_bytes(checkpoint, item.name, "meta")
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)
    try:
        with _damage_errors(item), ocp.StandardCheckpointer() as checkpointer:
            params = checkpointer.restore(item, abstract)
    except DAMAGE_ERRORS as error:
        raise UserError(f"checkpoint {item} cannot be read ({describe_error(error)}); choose another") from error
    check_numbers({name: np.asarray(leaf) for name, leaf in flatten(params).items()}, f"checkpoint {item}")
    return params


def load_config(checkpoint: Path) -> str:
    """The config, as text of `config.to_json`, of the run that wrote a checkpoint.

    Raises:
      UserError: the checkpoint holds no config.
    """
    return load_meta(checkpoint)["config"]


def load_labels(source: Path) -> tuple[str, ...]:
    """The names of the classes of a run, or of one of its checkpoints; empty where there are none that can be read."""
    try:
        return tuple(from_json(load_config(find_checkpoint(str(source)))).get("labels", ()))
    except UserError:
        return ()


def load_meta(checkpoint: Path) -> dict[str, Any]:
    """The `meta` of `Checkpoints.save`, and the versions of the libraries.

    Raises:
      UserError: the checkpoint holds none that can be read, or its bytes have changed since it was written.
    """
    if damage := checksums.find_damage(checkpoint, "meta"):
        raise UserError(_describe_damage(checkpoint, damage))
    try:
        with _damage_errors(checkpoint), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            return checkpointer.restore(checkpoint / "meta")
    except DAMAGE_ERRORS as error:
        raise UserError(
            f"checkpoint {checkpoint} does not say which config made it ({describe_error(error)}); give --config=FILE"
        ) from error


def describe_error(error: Exception) -> str:
    """Type and first line of an error, for a message of one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _metadata(item: Path) -> Any:
    with _damage_errors(item):
        metadata = ocp.StandardCheckpointHandler().metadata(item)
    if metadata is None:
        raise ValueError("no metadata")
    return metadata.tree


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    shapes = {}
    map_names(lambda name, leaf: shapes.setdefault(name, tuple(leaf.shape)), tree)
    return shapes


def library_versions() -> dict[str, str]:
    """Versions of the libraries that write a checkpoint."""
    import flax
    import optax

    return {module.__name__: module.__version__ for module in (jax, flax, optax, ocp)} | {"beit_jax": __version__}
