"""Steps whose loss is not finite."""

from pathlib import Path

import jax
import numpy as np
from batches import random_batch
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.training import initialize, loop, optimizer, sharding, train_step


def test_a_bad_step_changes_nothing_but_the_number_of_steps():
    config = tiny("classify")
    config.max_bad_steps, config.optimizer.ema = 1, 0.5
    task, mesh = tasks.create(config), sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
    tx, _ = optimizer.build_optimizer(config.optimizer, total_steps=10, warmup_steps=2)
    with jax.set_mesh(mesh):
        abstract = initialize.abstract_state(task, tx, True, mesh)
        current = jax.jit(
            lambda key: train_step.create(task, tx, key, True),
            out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract),
        )(jax.random.key(0))
        frozen = initialize.load_frozen(config, task, mesh, Path("unused"))
        step = loop.trace_step(config, task, tx, mesh, current, frozen).lower().compile()
        states, skipped = [jax.device_get(current)], []
        for index in range(3):
            batch = random_batch(task, config.batch_size, seed=index)
            if index == 1:
                batch["image"][3, 0, 0, 0] = np.nan  # one pixel
            current, metrics = step(current, frozen, sharding.to_devices(mesh, batch), jax.random.key(1))
            assert all(np.isfinite(part) for parts in metrics.values() for part in jax.device_get(parts))
            skipped.append(float(metrics["skipped_steps"][0]))
            assert float(metrics["loss"][1]) == (0 if index == 1 else config.batch_size)
            states.append(jax.device_get(current))
    assert skipped == [0, 1, 0]
    assert [int(made.step) for made in states] == [0, 1, 2, 3]
    jax.tree.map(np.testing.assert_array_equal, states[2].replace(step=0), states[1].replace(step=0))
    changed = jax.tree.map(lambda one, other: not np.array_equal(one, other), states[3].params, states[2].params)
    assert any(jax.tree.leaves(changed))
