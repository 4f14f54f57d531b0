"""The learning rate as a function of the step (official `utils.cosine_scheduler`, mmcv's `poly`)."""

import jax
import jax.numpy as jnp
import optax


def warmup_cosine(base: float, end: float, warmup: int, total: int, decay: int = 0) -> optax.Schedule:
    """Linear warm-up from 0, then half a cosine from `base` towards `end`.

    As in the official code, steps `warmup - 1` and `warmup` both have `base`, and the last step has slightly more than
    `end`. Optax's `warmup_cosine_decay_schedule` reaches `base` one step later.

    Args:
      base: the largest value.
      end: the value that the cosine tends to.
      warmup: steps of warm-up.
      total: steps of the run.
      decay: steps of the cosine, after which the value stays at `end`; 0: the rest of the run.

    >>> schedule = warmup_cosine(1.0, 0.0, warmup=3, total=7)
    >>> [round(float(schedule(step)), 3) for step in range(7)]
    [0.0, 0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    length = decay or max(total - warmup, 1)

    def value(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rising = base * step / max(warmup - 1, 1)
        progress = jnp.clip((step - warmup) / length, 0.0, 1.0)
        falling = end + 0.5 * (base - end) * (1.0 + jnp.cos(jnp.pi * progress))
        return jnp.where(step < warmup, rising, falling)

    return value


def by_epoch(schedule: optax.Schedule, steps_per_epoch: int) -> optax.Schedule:
    """The value of an epoch's first step for all of its steps, as of torch's `CosineAnnealingLR`, stepped by epochs.

    >>> schedule = by_epoch(warmup_cosine(1.0, 0.0, warmup=0, total=6), steps_per_epoch=2)
    >>> [round(float(schedule(step)), 3) for step in range(6)]
    [1.0, 1.0, 0.75, 0.75, 0.25, 0.25]
    """
    return lambda step: schedule(jnp.asarray(step) // steps_per_epoch * steps_per_epoch)


def warmup_linear(base: float, end: float, warmup: int, total: int, decay: int = 0) -> optax.Schedule:
    """A straight line from `base` at step 0 to `end`, scaled down during the warm-up (mmcv's `poly`).

    The factor rises linearly from 1e-6 at step 0 to 1 at step `warmup`.

    Args:
      base: the value at which the line starts.
      end: the value at which it ends.
      warmup: steps of warm-up.
      total: steps of the run.
      decay: the step at which the line ends, after which the value stays at `end`; 0: `total`.

    >>> schedule = warmup_linear(1.0, 0.0, warmup=2, total=4)
    >>> [round(float(schedule(step)), 3) for step in range(4)]
    [0.0, 0.375, 0.5, 0.25]
    >>> schedule = warmup_linear(1.0, 0.0, warmup=0, total=4)
    >>> [round(float(schedule(step)), 3) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """

    def value(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        falling = end + (base - end) * (1.0 - jnp.minimum(step / (decay or total), 1.0))
        left = jnp.maximum(1.0 - step / warmup, 0.0) if warmup else 0.0
        return falling * (1.0 - left * (1.0 - 1e-6))

    return value
