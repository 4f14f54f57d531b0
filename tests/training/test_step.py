"""The step: the same on any mesh, with micro-batches, and without TensorFlow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch
from tiny import TOKENIZERS, experiment, one_device
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.config import task_names
from beit_jax.runtime.run_once import run_once
from beit_jax.training import sharding
from beit_jax.training.params import flatten

STEPS = 3


def run_steps(config, mesh, steps=STEPS):
    """Losses and the final state, as NumPy, of a few steps on random batches."""
    made = experiment(config, mesh)
    step, current, losses = made.trace_step().lower().compile(), made.fresh_state(), []
    for index in range(steps):
        batch = sharding.to_devices(mesh, random_batch(made.task, config.batch_size, seed=index))
        current, metrics = step(current, made.frozen, batch, made.random_keys[1])
        losses.append(float(metrics["loss"][0]) / float(metrics["loss"][1]))
    return losses, jax.device_get(current)


@pytest.mark.parametrize(
    ("task", "sizes"),
    [
        ("pretrain", dict(data=2, fsdp=4, tensor=1)),
        *(
            pytest.param(task, sizes, marks=pytest.mark.slow)
            for task, sizes in (
                *(
                    (task, dict(data=2, fsdp=4, tensor=1))
                    for task in (*task_names(), *TOKENIZERS)
                    if task != "pretrain"
                ),
                ("pretrain", dict(data=2, fsdp=2, tensor=2)),
                ("pretrain", dict(data=4, fsdp=2, tensor=1, slices=2)),
            )
        ),
    ],
)
def test_one_device_equals_eight(task, sizes):
    check_mesh(tiny(task), sizes)


def test_one_device_equals_eight_with_two_predictions():
    config = tiny("pretrain")
    config.model.update(dict(early_layer=1, head_layers=1, shared_head=False))
    check_mesh(config, dict(data=2, fsdp=2, tensor=2))


def check_mesh(config, sizes):
    alone, alone_state = run_steps(config, one_device(), steps=2)
    together, state_of_eight = run_steps(config, sharding.make_mesh(sizes), steps=2)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    expected, found = flatten(alone_state.params), flatten(state_of_eight.params)
    for name in expected:
        # Adam divides by the root of tiny second moments, which makes rounding visible: compare to the update's size.
        np.testing.assert_allclose(found[name], expected[name], atol=2e-4, err_msg=name)


def test_state_is_split_over_fsdp():
    config = tiny("pretrain")
    config.optimizer.ema = 0.5
    config.model.update(dict(early_layer=1, shared_head=False))
    abstract = experiment(config, sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))).abstract_state
    split = {name: leaf for name, leaf in flatten(abstract.params).items() if any(leaf.sharding.spec)}
    assert "aggregation_blocks/mlp/fc1/kernel" in split and "aggregation_lm_head/kernel" in split
    name = "encoder/blocks/mlp/fc1/kernel"
    trees = [abstract.params, abstract.ema]
    adam = next(
        part for part in jax.tree.leaves(abstract.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(part, "mu")
    )
    for tree in [*trees, adam.mu, adam.nu]:
        leaf = flatten(tree)[name]
        assert leaf.sharding.shard_shape(leaf.shape) == (2, 8, 128)


# The tokenizer draws noise for each micro-batch.
@pytest.mark.parametrize("task", ["pretrain", pytest.param("classify", marks=pytest.mark.slow)])
def test_micro_batches_give_the_whole_batch_s_gradient(task):
    """Also where micro-batches hold different numbers of masked patches; without random draws in the loss."""
    config = tiny(task)
    config.model.drop_path = 0.0
    whole, whole_state = run_steps(config, one_device(), steps=1)
    config.optimizer.accumulate = 4
    split, split_state = run_steps(config, one_device(), steps=1)
    np.testing.assert_allclose(split, whole, rtol=1e-6)
    for name, value in flatten(whole_state.params).items():
        np.testing.assert_allclose(flatten(split_state.params)[name], value, atol=1e-5, err_msg=name)


def test_averaged_parameters_and_the_first_learning_rate():
    """The average follows its formula; the warm-up starts at 0, so that the first step changes no parameter."""
    config = tiny("classify")
    config.optimizer.ema = 0.75
    made = experiment(config, one_device())
    step, current = made.trace_step().lower().compile(), made.fresh_state()
    states = [jax.device_get(current)]
    for index in range(3):
        batch = sharding.to_devices(made.mesh, random_batch(made.task, config.batch_size, seed=index))
        current, _ = step(current, made.frozen, batch, made.random_keys[1])
        states.append(jax.device_get(current))
    jax.tree.map(np.testing.assert_array_equal, states[1].params, states[0].params)
    before, after = states[2:]
    for name, value in flatten(after.ema).items():
        expected = 0.75 * flatten(before.ema)[name] + 0.25 * flatten(after.params)[name]
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)


def test_whole_masks_and_padding_weigh_nothing():
    """The gathered loss equals the plain mean over masked patches of all logits."""
    config = tiny("pretrain")
    task = tasks.create_task(config)
    params = run_once(task.init, jax.random.key(3))
    frozen = {"tokenizer": run_once(task.frozen_parts["tokenizer"].init, jax.random.key(4))}
    batch = {name: jnp.asarray(rows) for name, rows in random_batch(task, 8).items()}
    assert int(batch["mask"].sum(axis=(1, 2)).max()) <= config.num_masked
    sums = jax.jit(task.measure)(params, frozen, batch | {"valid": jnp.ones(8, bool)})
    config.num_masked = 16
    everything = jax.jit(tasks.create_task(config).measure)(params, frozen, batch | {"valid": jnp.ones(8, bool)})
    assert float(sums["loss"][1]) == float(batch["mask"].sum())
    np.testing.assert_allclose(sums["loss"][0], everything["loss"][0], rtol=1e-5)
    np.testing.assert_allclose(sums["mlm_acc"][0], everything["mlm_acc"][0])


def test_a_batch_without_targets_changes_nothing():
    """As of masks that hide nothing: the gradient is 0, and not 0/0. The rate of the first step is 0, too."""
    config = tiny("pretrain")
    made = experiment(config, one_device())
    batch = random_batch(made.task, config.batch_size)
    batch["mask"] = np.zeros_like(batch["mask"])
    state = made.fresh_state()
    before = jax.device_get(state.params)
    batch, step = sharding.to_devices(made.mesh, batch), made.trace_step().lower().compile()
    state, metrics = step(state, made.frozen, batch, made.random_keys[1])
    assert metrics["loss"] == (0.0, 0.0) and metrics["grad_norm"][0] == 0.0
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), before)
