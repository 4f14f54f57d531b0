"""The train state and the step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from beit_jax.errors import UserError
from beit_jax.tasks.task import Task
from beit_jax.training.micro_batches import carry_over_micro_batches
from beit_jax.training.params import flatten, join, split
from beit_jax.typing import Batch, Metrics, Params


@struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: updates made so far, int32.
      params: the parameters, float32.
      opt_state: the optimizer's state, for the parameters that have a gradient.
      ema: exponential moving average of the parameters, or None. Those without a gradient are not averaged.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params | None


def new_state(task: Task, optimizer: optax.GradientTransformation, key: jax.Array, ema: bool) -> TrainState:
    """The state at step 0."""
    params = task.init(key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(split(params, task.without_gradient)[0]),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
    )


def make_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    skip_bad: bool = False,
) -> Callable[[TrainState, Params, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """The training step, a pure function to be jitted.

    The loss is a sum over the batch, divided by its count. Both are first added over the `accumulate` micro-batches, so
    that these give the gradient of the whole batch even if they have different numbers of masked patches.

    Args:
      task: what is learned.
      optimizer: an optax transformation.
      accumulate: micro-batches per update; they divide the batch.
      ema_decay: of the averaged parameters; 0: none.
      skip_bad: a step whose loss or update is not finite changes nothing but the number of steps, adds nothing to the
        metrics, and is counted in `skipped_steps`.

    Returns:
      `step(state, frozen, batch, key) -> (state, metrics)`; `key` is the same at all steps: the step is folded into it.
    """

    def gradient(learned: Params, others: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array) -> Any:
        """Gradients, metrics, and the parameters without a gradient after the step."""

        def summed_loss(learned: Params) -> tuple[jax.Array, Any]:
            metrics, new_values = task.loss(join(learned, others), frozen, batch, key, step)
            return metrics["loss"][0], (metrics, new_values)

        (_, (metrics, new_values)), gradients = jax.value_and_grad(summed_loss, has_aux=True)(learned)
        _check_new_values(new_values, others)
        return gradients, metrics, join(others, new_values)

    def accumulated(
        learned: Params, others: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> Any:
        def part(others: Params, batch: Batch, index: jax.Array) -> Any:
            own_key = jax.random.fold_in(key, index)
            gradients, metrics, others = gradient(learned, others, frozen, batch, own_key, step)
            return others, (gradients, metrics)

        others, sums = carry_over_micro_batches(part, others, batch, accumulate)
        return *sums, others

    def step(state: TrainState, frozen: Params, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        compute = gradient if accumulate == 1 else accumulated
        learned, others = split(state.params, task.without_gradient)
        gradients, metrics, others = compute(learned, others, frozen, batch, key, state.step)
        count = metrics["loss"][1]
        count = jnp.where(count == 0, jnp.ones_like(count), count)  # nothing to learn: a gradient of 0, and not 0/0
        gradients = jax.tree.map(lambda g: g / count, gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, learned)
        learned = optax.apply_updates(learned, updates)
        params, ema = join(learned, others), None
        if state.ema is not None:
            averaged, _ = split(state.ema, task.without_gradient)
            ema = join(optax.incremental_update(learned, averaged, 1.0 - ema_decay), others)
        one = jnp.float32(1.0)
        metrics["grad_norm"] = (optax.tree.norm(gradients), one)
        metrics["param_norm"] = (optax.tree.norm(params), one)
        updated = TrainState(state.step + 1, params, opt_state, ema)
        return _unless_bad(updated, state, metrics) if skip_bad else (updated, metrics)

    return step


def _check_new_values(new_values: Params, others: Params) -> None:
    """Raises UserError if a task gives new values of parameters that it does not declare to be without a gradient."""
    undeclared = [name for name in flatten(new_values) if name not in flatten(others)]
    if undeclared:
        raise UserError(
            f"found new values of {', '.join(undeclared)} in what the task's `loss` returns, expected only parameters "
            "that its property `without_gradient` names: name them there"
        )


def _unless_bad(updated: TrainState, state: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
    """The updated state if loss, gradient and parameters are finite; else the old state, with the step counted."""
    sums = jnp.stack([metrics[name][0] for name in ("loss", "grad_norm", "param_norm")])
    good = jnp.isfinite(sums).all()
    kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), updated, state).replace(step=updated.step)
    metrics = jax.tree.map(lambda value: jnp.where(good, value, jnp.zeros_like(value)), metrics)
    return kept, metrics | {"skipped_steps": (1.0 - good.astype(jnp.float32), jnp.float32(1.0))}
