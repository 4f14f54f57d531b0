"""The first state of a run: from its own checkpoint, `resume_from`, `init_from` or new parameters, in this order."""

import collections
import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from beit_jax.config import class_names, differing_keys, from_json
from beit_jax.config import flatten as flatten_config
from beit_jax.config.recipes import may_be_moved
from beit_jax.config.schema import declared_keys
from beit_jax.errors import UserError
from beit_jax.runtime.checkpoint_folder import find_checkpoint, has_checkpoint
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks.task import FrozenPart, Task
from beit_jax.training import checkpoint, checkpoint_manager, train_step
from beit_jax.training.grids import PendingStage, check_same_channels, config_of_source, grid_of_model
from beit_jax.training.inflate_channels import inflate_channels
from beit_jax.training.interpolate_positions import interpolate_positions
from beit_jax.training.mismatch import explain_mismatch
from beit_jax.training.params import flatten, merge, split, unflatten, unmatched_names
from beit_jax.training.sharding import replicated, shardings
from beit_jax.typing import Params

ADVICE = "choose the same model, or name the parameters that may differ in init_optional"


def abstract_state(task: Task, optimizer: optax.GradientTransformation, ema: bool, mesh: Mesh) -> train_step.TrainState:
    """Shapes, dtypes and shardings of the train state; nothing is allocated."""
    shapes = jax.eval_shape(lambda key: train_step.new_state(task, optimizer, key, ema), jax.random.key(0))
    return with_shardings(shapes, mesh)


def abstract_params(task: Task, mesh: Mesh) -> Params:
    """Shapes, dtypes and shardings of the parameters that are learned."""
    return with_shardings(jax.eval_shape(task.init, jax.random.key(0)), mesh)


def load_params(abstract: Params, source: Path | Params) -> Params:
    """The parameters of a checkpoint, or those given, sharded like `abstract`.

    Raises:
      UserError: the checkpoint cannot be read, or holds other parameters.
    """
    placement = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    everywhere = replicated(jax.tree.leaves(placement)[0].mesh)
    loaded = source if isinstance(source, Mapping) else checkpoint.load_params(source, everywhere)
    return jax.device_put(merge(abstract, loaded), placement)


def with_shardings(shapes: Any, mesh: Mesh) -> Any:
    """The tree of `jax.ShapeDtypeStruct`, with the sharding that `PARTITION` gives to the name of each leaf."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(mesh, shapes),
    )


def check_sources(config: ConfigDict, task: Task, run: Path, pending: Mapping[str, PendingStage]) -> Params:
    """Checks names and shapes of everything that a run will start from.

    Args:
      config: of the run.
      task: what it learns.
      run: its folder.
      pending: stages that have not run yet, `{"stage:NAME": stage}`.

    Returns:
      The shapes of the run's own parameters.

    Raises:
      UserError: a checkpoint is missing, cannot be read or does not fit.
    """
    key = jax.random.key(0)
    params = jax.eval_shape(task.init, key)

    def shapes(source: str) -> Params:
        if source in pending:
            return pending[source].shapes
        return checkpoint.load_shapes(find_checkpoint(source, run.parent))

    @contextlib.contextmanager
    def explained(source: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            if source not in pending:
                explain_mismatch(config, find_checkpoint(source, run.parent))
            raise

    if has_checkpoint(run):
        _check_config(config, run)
    elif config.init_from and not config.resume_from:
        with _named("init_from", config.init_from), explained(config.init_from):
            own_grid = grid_of_model(config_of_source(config.init_from, run, pending))
            found = _fitted(config, shapes(config.init_from), params, own_grid)
            merge(params, found, _optional(config, task), task.ignored_parameters, ADVICE)
    for name, part in task.frozen_parts.items():
        if part.source != "random":
            is_own = name == "encoder"  # whose sizes are those of the section `model`
            with _named(name, part.source), explained(part.source) if is_own else contextlib.nullcontext():
                theirs = config_of_source(part.source, run, pending)
                if not is_own:  # whose channels can be inflated
                    check_same_channels(config, theirs)
                inflate = config.inflate if is_own else ""
                _merge_part(part, jax.eval_shape(part.init, key), shapes(part.source), grid_of_model(theirs), inflate)
    return params


def _fitted(config: ConfigDict, loaded: Params, target: Params, own_grid: tuple[int, int] | None) -> Params:
    """Loaded parameters but `init_new`, with the positions and the channels of the model of a config."""
    loaded = inflate_channels(split(loaded, config.init_new)[0], target, config.inflate)
    return interpolate_positions(loaded, target, grid=grid_of_model(config), own_grid=own_grid)


def _merge_part(
    part: FrozenPart, initial: Params, loaded: Params, own_grid: tuple[int, int] | None, inflate: str
) -> Params:
    loaded = inflate_channels(loaded, initial, inflate)
    if part.grid or unmatched_names(initial, loaded):
        loaded = interpolate_positions(loaded, initial, grid=part.grid, own_grid=own_grid)
    return merge(initial, loaded, ignored=part.ignored)


def _check_config(config: ConfigDict, run: Path) -> None:
    """Raises UserError if the newest checkpoint of a run was made with another config; its paths may differ."""
    try:
        newest = find_checkpoint(str(run))
        there = from_json(checkpoint.load_config(newest))
    except (UserError, ValueError):
        return  # damaged; an older one may be intact
    declared, before, now = declared_keys(config), flatten_config(there), flatten_config(config)
    paths = {key for key, declaration in declared.items() if declaration.is_path}
    if may_be_moved(*(values.get("data.source", "") for values in (before, now))):
        paths.add("data.source")
    for key in differing_keys(there, config):
        if key not in paths:
            raise UserError(
                f"checkpoint {newest} was made with {key}={before.get(key, 'absent')!r}, and the config has "
                f"{now.get(key, 'absent')!r}; choose another --workdir, or set it as it was"
            )


@contextlib.contextmanager
def _named(what: str, source: str) -> Iterator[None]:
    """Puts the name of a part and its source in front of the message of an error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what} from {source}: {error}") from error


def fresh_state(
    task: Task, optimizer: optax.GradientTransformation, abstract: train_step.TrainState, key: jax.Array
) -> train_step.TrainState:
    """The state at step 0 with new parameters, sharded like `abstract`."""
    return run_once(
        lambda key: train_step.new_state(task, optimizer, key, abstract.ema is not None),
        key,
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract),
    )


def starting_state(
    config: ConfigDict,
    task: Task,
    optimizer: optax.GradientTransformation,
    abstract: train_step.TrainState,
    key: jax.Array,
    checkpoints: checkpoint_manager.Checkpoints,
    run: Path,
) -> tuple[train_step.TrainState, str]:
    """The state that a run starts from, sharded, and one line that says where it is from.

    Args:
      config: of the run.
      task: what is learned.
      optimizer: from gradients to updates.
      abstract: shapes, dtypes and shardings of the state.
      key: of new parameters.
      checkpoints: of the run.
      run: its folder, beside which stages lie.

    Raises:
      UserError: `init_from` or `resume_from` holds no checkpoint, or one that does not fit.
    """
    restored = checkpoints.restore(abstract)
    if restored is not None:
        return restored, f"continuing from step {int(restored.step)}"
    if config.resume_from:
        source = find_checkpoint(config.resume_from, run.parent)
        checkpoint.check_bytes(source)
        try:
            restored = checkpoint.load_state(source, abstract)
        except checkpoint.DAMAGE_ERRORS as error:
            reason = checkpoint.describe_error(error)
            raise UserError(f"resume_from={config.resume_from!r} cannot be read ({reason}); choose another") from error
        return restored, f"continuing {source} from step {int(restored.step)}"
    fresh = fresh_state(task, optimizer, abstract, key)
    if not config.init_from:
        return fresh, "starting from scratch"
    source = find_checkpoint(config.init_from, run.parent)
    everywhere = replicated(abstract.step.sharding.mesh)
    own_grid = grid_of_model(config_of_source(config.init_from, run, {}))
    loaded = _fitted(config, checkpoint.load_params(source, everywhere), abstract.params, own_grid)
    loaded, rows, note = _without_other_classes(config, task, loaded, abstract.params, source)
    merged = merge(fresh.params, loaded, _optional(config, task), task.ignored_parameters, ADVICE)
    params = jax.device_put(merged, jax.tree.map(lambda leaf: leaf.sharding, abstract.params))
    ema = None if fresh.ema is None else jax.tree.map(jax.numpy.copy, params)
    line = f"starting from the parameters of {source}{_describe_kept(config, fresh, loaded, rows)}{note}"
    return fresh.replace(params=params, ema=ema), line


def _optional(config: ConfigDict, task: Task) -> tuple[str, ...]:
    """Names of parameters that a checkpoint may lack; it always may be of other classes."""
    return (*config.init_optional, *config.init_new, *task.class_parameters, *task.optional_parameters)


def _without_other_classes(
    config: ConfigDict, task: Task, loaded: Params, expected: Params, source: Path
) -> tuple[Params, list[str], str]:
    """The parameters of a checkpoint that a run takes: not the rows of its classes, if the run has as many others.

    Returns:
      The parameters, the names of those that are left out, and what to add to the line that says where a run starts.
    """
    flat, ours, theirs = flatten(loaded), tuple(config.get("labels", ())), checkpoint.load_labels(source)
    rows = [name for name in flat if any(re.search(pattern, name) for pattern in task.class_parameters)]
    rows = [name for name in rows if name not in unmatched_names(expected, loaded)]
    if not rows or class_names.same_order(ours, theirs):
        return loaded, [], ""
    by_number = "which are taken by their numbers"
    if class_names.are_unnamed(ours) or class_names.are_unnamed(theirs):
        return loaded, [], f"; the checkpoint or the data do not name their classes, {by_number}"
    if not all(any(re.search(pattern, name) for pattern in config.init_optional) for name in rows):
        return loaded, [], f"; the classes of the checkpoint, {by_number}, have other names"  # as the user wants
    kept = {name: leaf for name, leaf in flat.items() if name not in rows}
    more = "; if they are the same classes in the same order, --config.init_optional='()' takes them"
    return unflatten(kept), rows, more


def _describe_kept(config: ConfigDict, fresh: train_step.TrainState, loaded: Params, rows: Sequence[str]) -> str:
    """What is not taken from a checkpoint, in words; `rows` are parameters of other classes."""
    found, expected = flatten(loaded), flatten(fresh.params)
    names = unmatched_names(fresh.params, loaded)
    changed = [f"{name} {found[name].shape} to {expected[name].shape}" for name in names if name in found]
    anew = list(flatten(split(fresh.params, config.init_new)[1]))
    absent = [name for name in names if name not in found and name not in (*rows, *anew)]
    if len(absent) > 8:  # too many to name, such as a whole head: they are counted by their first part
        counts = collections.Counter(name.partition("/")[0] for name in absent)
        absent = [f"{part} ({number} parameters)" for part, number in counts.items()]
    titled = (("not there", absent), ("of another shape", changed), ("of classes with other names", rows))
    titled = (("by init_new", anew), *titled)
    parts = [f"{title}: {', '.join(names)}" for title, names in titled if names]
    return f"; initialised anew, {'; '.join(parts)}" if parts else ""


def abstract_frozen(task: Task, mesh: Mesh) -> dict[str, Params]:
    """Shapes, dtypes and shardings of the parts that the task does not learn."""
    return {
        name: with_shardings(jax.eval_shape(part.init, jax.random.key(0)), mesh)
        for name, part in task.frozen_parts.items()
    }


def load_frozen(task: Task, abstract: Mapping[str, Params], run: Path) -> dict[str, Params]:
    """The parameters that the task reads and does not learn, sharded.

    Args:
      task: what is learned.
      abstract: from `abstract_frozen`.
      run: the folder of the run, beside which stages lie.

    Raises:
      UserError: a source holds no checkpoint, or one that does not fit.
    """
    frozen = {}
    for name, shapes in abstract.items():
        part, placement = task.frozen_parts[name], jax.tree.map(lambda leaf: leaf.sharding, shapes)
        if part.source == "random":
            frozen[name] = run_once(part.init, jax.random.key(part.seed), out_shardings=placement)
            continue
        with _named(name, part.source):
            source = find_checkpoint(part.source, run.parent)
            everywhere = replicated(jax.tree.leaves(placement)[0].mesh)
            own_grid = grid_of_model(config_of_source(part.source, run, {}))
            inflate = task.config.inflate if name == "encoder" else ""
            loaded = _merge_part(part, shapes, checkpoint.load_params(source, everywhere), own_grid, inflate)
        frozen[name] = jax.device_put(loaded, placement)
    return frozen
