"""Where a run starts; the order of precedence stands in `checkpoint.py`."""

from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from beit_jax.errors import UserError
from beit_jax.tasks.task import Params, Task
from beit_jax.training import checkpoint, state
from beit_jax.training.params import flatten, merge, unflatten
from beit_jax.training.sharding import shardings, whole

SHARED_TABLE, BLOCK_TABLE = "encoder/relative_position/table", "encoder/blocks/attn/relative_position/table"


def abstract_state(task: Task, optimizer: optax.GradientTransformation, ema: bool, mesh: Mesh) -> state.TrainState:
    """Shapes, dtypes and shardings of the train state; nothing is allocated."""
    shapes = jax.eval_shape(lambda key: state.create(task, optimizer, key, ema), jax.random.key(0))
    return with_shardings(shapes, mesh)


def with_shardings(shapes: Any, mesh: Mesh) -> Any:
    """A tree of `jax.ShapeDtypeStruct` with the shardings of its names."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(mesh, shapes),
    )


def initial_state(
    config: ConfigDict,
    task: Task,
    optimizer: optax.GradientTransformation,
    checkpoints: checkpoint.Checkpoints,
    mesh: Mesh,
) -> tuple[state.TrainState, str]:
    """The state that a run starts from, sharded, and one line that says where it is from.

    Raises:
      UserError: `init_from` or `resume_from` holds no checkpoint, or one that does not fit.
    """
    abstract = abstract_state(task, optimizer, config.optimizer.ema > 0, mesh)
    restored = checkpoints.restore(abstract)
    if restored is not None:
        return restored, f"continuing from step {int(restored.step)}"
    if config.resume_from:
        source = checkpoint.locate(config.resume_from)
        try:
            restored = checkpoint.Checkpoints(source.parents[1]).restore_step(int(source.name), abstract)
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"resume_from={config.resume_from!r} cannot be continued by this config: {error}"
            ) from error
        return restored, f"continuing {source} from step {int(restored.step)}"

    initialise = jax.jit(
        lambda key: state.create(task, optimizer, key, config.optimizer.ema > 0),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract),
    )
    if not config.init_from:
        return initialise(jax.random.key(config.seed)), "starting from scratch"
    source = checkpoint.locate(config.init_from)
    # Everything about the checkpoint is checked against shapes alone, before parameters are made.
    loaded = expand_shared_table(checkpoint.load_params(source, whole(mesh)), abstract.params)
    merge(abstract.params, loaded, config.init_fresh, config.init_drop)
    fresh = initialise(jax.random.key(config.seed))
    merged = merge(fresh.params, loaded, config.init_fresh, config.init_drop)
    params = jax.device_put(merged, jax.tree.map(lambda leaf: leaf.sharding, abstract.params))
    ema = None if fresh.ema is None else jax.tree.map(jax.numpy.copy, params)
    return fresh.replace(params=params, ema=ema), f"starting from the parameters of {source}"


def expand_shared_table(loaded: Params, target: Params) -> Params:
    """Gives every block a copy of the shared table of relative positions where the model has one table per block.

    This is how the official fine-tuning starts from a pre-trained model (`run_class_finetuning.py`).
    """
    flat, wanted = flatten(loaded), flatten(target)
    if SHARED_TABLE in flat and BLOCK_TABLE in wanted and SHARED_TABLE not in wanted:
        depth = wanted[BLOCK_TABLE].shape[0]
        table = flat.pop(SHARED_TABLE)
        flat[BLOCK_TABLE] = jax.numpy.broadcast_to(table[None], (depth, *table.shape))
    return unflatten(flat)


def abstract_frozen(task: Task, mesh: Mesh) -> dict[str, Params]:
    """Shapes, dtypes and shardings of the parts that the task does not learn."""
    return {
        name: with_shardings(jax.eval_shape(part.init, jax.random.key(0)), mesh) for name, part in task.frozen.items()
    }


def load_frozen(task: Task, mesh: Mesh) -> dict[str, Params]:
    """The parameters that the task reads and does not learn, sharded.

    Raises:
      UserError: a source holds no checkpoint, or one that does not fit.
    """
    frozen = {}
    for name, abstract in abstract_frozen(task, mesh).items():
        part, placement = task.frozen[name], jax.tree.map(lambda leaf: leaf.sharding, abstract)
        if part.source == "random":
            frozen[name] = jax.jit(part.init, out_shardings=placement)(jax.random.key(0))
            continue
        try:
            loaded = merge(abstract, checkpoint.load_params(checkpoint.locate(part.source), whole(mesh)))
        except UserError as error:
            raise UserError(f"{name} from {part.source}: {error}") from error
        frozen[name] = jax.device_put(loaded, placement)
    return frozen
