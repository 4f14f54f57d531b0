"""Steps whose loss is not finite."""

import jax
import numpy as np
from batches import random_batch
from tiny import config as tiny
from tiny import experiment

from beit_jax.training import sharding


def test_a_bad_step_changes_nothing_but_the_number_of_steps():
    config = tiny("classify")
    config.max_bad_steps, config.optimizer.ema = 1, 0.5
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
    made = experiment(config, mesh)
    step, current = made.trace_step().lower().compile(), made.fresh_state()
    states, skipped = [jax.device_get(current)], []
    for index in range(3):
        batch = random_batch(made.task, config.batch_size, seed=index)
        if index == 1:
            batch["image"][3, 0, 0, 0] = np.nan  # one pixel
        current, metrics = step(current, {}, sharding.to_devices(mesh, batch), made.random_keys[1])
        assert all(np.isfinite(part) for parts in metrics.values() for part in jax.device_get(parts))
        skipped.append(float(metrics["skipped_steps"][0]))
        assert float(metrics["loss"][1]) == (0 if index == 1 else config.batch_size)
        states.append(jax.device_get(current))
    assert skipped == [0, 1, 0]
    assert [int(state.step) for state in states] == [0, 1, 2, 3]
    jax.tree.map(np.testing.assert_array_equal, states[2].replace(step=0), states[1].replace(step=0))
    changed = jax.tree.map(lambda one, other: not np.array_equal(one, other), states[3].params, states[2].params)
    assert any(jax.tree.leaves(changed))
