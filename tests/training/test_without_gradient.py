"""Parameters without a gradient: no moments, no average, and the values that the task gives them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from batches import random_batch
from tiny import config as tiny
from tiny import experiment, one_device

from beit_jax.errors import UserError
from beit_jax.tasks import Task
from beit_jax.tasks.task import spec
from beit_jax.training import checkpoint_manager, sharding
from beit_jax.training.params import flatten
from beit_jax.training.train_step import make_step, new_state

pytestmark = pytest.mark.usefixtures("in_the_checkout")  # with the promotion of types that optax needs

BATCH = {"x": jnp.arange(1.0, 9.0)}


@dataclasses.dataclass(frozen=True, eq=False)
class Follower(Task):
    """Pulls a weight to what a slow copy of it and a constant say; the copy follows the weight."""

    names: tuple[str, ...] = ("^target/", "constant$")

    @property
    def without_gradient(self):
        return self.names

    def init(self, key):
        return {"weight": jnp.float32(4.0), "target": {"weight": jnp.float32(0.0)}, "constant": jnp.float32(1.0)}

    def loss(self, params, frozen, batch, key, step):
        weight, target = params["weight"], params["target"]["weight"]
        error = jnp.sum(batch["x"] * (weight - target) ** 2 + params["constant"] * target**2)
        return {"loss": (error, jnp.float32(len(batch["x"])))}, {"target": {"weight": 0.5 * target + 0.5 * weight}}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_values_moments_and_averages(accumulate):
    task, optimizer = Follower(tiny("classify")), optax.sgd(0.01, momentum=0.9)
    state = new_state(task, optimizer, jax.random.key(0), ema=True)
    step = jax.jit(make_step(task, optimizer, accumulate, ema_decay=0.75))
    weight, target, momentum, average = 4.0, 0.0, 0.0, 4.0
    for _ in range(3):
        total = 0.0
        for part in range(accumulate):
            total += 2 * float(BATCH["x"][part::accumulate].sum()) * (weight - target)
            target = 0.5 * target + 0.5 * weight
        momentum = 0.9 * momentum + total / 8
        weight -= 0.01 * momentum
        average = 0.75 * average + 0.25 * weight
        state, metrics = step(state, {}, BATCH, jax.random.key(1))
        assert float(metrics["grad_norm"][0]) == pytest.approx(abs(total) / 8, rel=1e-5)  # of the weight alone
    assert flatten(state.params) == pytest.approx({"weight": weight, "target/weight": target, "constant": 1.0})
    assert flatten(state.ema) == pytest.approx({"weight": average, "target/weight": target, "constant": 1.0})
    assert [float(moment) for moment in jax.tree.leaves(state.opt_state)] == [pytest.approx(momentum)]


def test_new_values_that_are_not_declared_are_refused():
    task, optimizer = Follower(tiny("classify"), names=("constant$",)), optax.sgd(0.01)
    state = new_state(task, optimizer, jax.random.key(0), ema=False)
    with pytest.raises(UserError, match=r"new values of target/weight .* expected only .* `without_gradient` names"):
        make_step(task, optimizer)(state, {}, BATCH, jax.random.key(1))


@dataclasses.dataclass(frozen=True, eq=False)
class Counts(Task):
    """Learns nothing by gradient: it counts examples."""

    without_gradient = (".*",)

    def init(self, key):
        return {"seen": jnp.zeros((1,), jnp.float32)}

    def loss(self, params, frozen, batch, key, step):
        count = jnp.float32(len(batch["image"]))
        return {"loss": (count, count)}, {"seen": params["seen"] + count}

    def train_spec(self, b):
        return {"image": spec("float32", b, 4, 4, 3)}


def test_a_task_without_any_gradient(tmp_path):
    config = tiny("classify")
    config.optimizer.ema = 0.5
    made = experiment(config, one_device(), Counts(config))
    state = stepped(made, made.fresh_state(), range(2))
    assert float(state.params["seen"][0]) == float(state.ema["seen"][0]) == 2 * config.batch_size
    restored = saved_and_restored(made, state, made, tmp_path)
    assert float(restored.params["seen"][0]) == 2 * config.batch_size


def stepped(made, state, seeds):
    """The state after a step on a random batch of each seed."""
    step = made.trace_step().lower().compile()
    for seed in seeds:
        batch = sharding.to_devices(made.mesh, random_batch(made.task, made.config.batch_size, seed))
        state, _ = step(state, made.frozen, batch, made.random_keys[1])
    return state


def saved_and_restored(made, state, other, folder):
    """What a run with another mesh restores of a checkpoint."""
    checkpoints = checkpoint_manager.Checkpoints(folder)
    checkpoints.save(state, int(state.step), {"config": "{}"})
    checkpoints.close()
    return checkpoint_manager.Checkpoints(folder).restore(other.abstract_state)


def test_codebook_of_vqkd_through_a_checkpoint(tmp_path):
    """Of a state on eight devices, which one device continues."""
    config = tiny("vqkd")
    config.optimizer.ema = 0.75
    eight = experiment(config, sharding.make_mesh(dict(data=2, fsdp=2, tensor=2)))
    alone = experiment(config, one_device())
    made = [name for name in flatten(eight.abstract_params) if name.startswith("codebook/")]
    assert len(made) == 3
    moments = optax.tree.get(eight.abstract_state.opt_state, "mu")
    assert set(flatten(moments)) == set(flatten(eight.abstract_params)) - set(made)

    state = eight.fresh_state()
    before = saved_and_restored(eight, state, alone, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(before), jax.device_get(state))
    before = jax.device_get(before)
    after = jax.device_get(stepped(alone, before, range(2)))  # the rate of the first step is 0
    for name, value in flatten(after.ema).items():
        own = flatten(after.params)[name]
        average = own if name in made else 0.75 * flatten(before.ema)[name] + 0.25 * own
        np.testing.assert_allclose(value, average, rtol=1e-5, atol=1e-7, err_msg=name)
    assert not np.array_equal(after.params["codebook"]["vectors"], before.params["codebook"]["vectors"])
