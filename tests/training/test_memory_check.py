"""What does not fit into memory is refused with a value, and with that value it fits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import config as tiny
from tiny import experiment, one_device

from beit_jax import tasks
from beit_jax.data.in_memory import Examples
from beit_jax.errors import UserError
from beit_jax.experiment import STEP
from beit_jax.runtime.run_once import run_once
from beit_jax.training import memory_advice, memory_check, memory_limit, sharding
from beit_jax.training.evaluation import Evaluator
from beit_jax.training.memory_estimate import estimated_bytes, largest_written
from beit_jax.training.memory_limit import MemoryLimit


@pytest.fixture
def limited(monkeypatch):
    """Sets the limit that `check_shapes` finds."""
    return lambda limit: monkeypatch.setattr(memory_check, "find_limit", lambda mesh: limit)


def large(task, batch_size=512):
    config = tiny(task)
    config.batch_size = batch_size
    if task == "classify":
        config.mixup = 0.8
    return config


def followed(config, message, prefix=""):
    """The config with what a message says."""
    found = re.findall(rf"--config\.{prefix}([\w.]+)=(\d+)", message)
    assert found, message
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({key: int(value) for key, value in found})
    return config


SLOW = [pytest.param(task, marks=pytest.mark.slow) for task in ("tokenizer", "pretrain_pixels", "segment")]


@pytest.mark.parametrize("task", ["pretrain", "classify", "probe", *SLOW])
def test_advice_from_shapes_fits(task, limited):
    config, mesh = large(task), one_device()
    made = experiment(config, mesh)
    held = memory_check._held(made, on_host=True)
    limit = MemoryLimit(held + largest_written(made.trace_step()) - 1, "free", on_host=True)
    limited(limit)
    with pytest.raises(UserError, match=r"needs at least [\d,]+ MiB of memory, and [\d,]+ MiB are free") as error:
        memory_check.check_shapes(made)
    smaller = experiment(followed(config, str(error.value)), mesh)
    memory_check.check_shapes(smaller)
    held = memory_check._held(smaller, on_host=True)
    assert held + memory_check.MARGIN * estimated_bytes(smaller.trace_step()) <= limit.size


@pytest.mark.parametrize("task", [pytest.param("tokenizer", marks=pytest.mark.slow), "probe"])
def test_advice_from_the_plan_fits(task):
    config, mesh = large(task, 64), one_device()
    made = experiment(config, mesh)
    compiled = made.trace_step().lower().compile()
    planned = memory_check._planned(compiled)
    memory_check.check_plan(made, STEP, compiled, MemoryLimit(planned, "free", on_host=True))
    limit = MemoryLimit(planned * 2 // 3, "free", on_host=True)
    with pytest.raises(UserError, match="a training step needs") as error:
        memory_check.check_plan(made, STEP, compiled, limit)
    smaller = experiment(followed(config, str(error.value)), mesh)
    for name, traced in smaller.trace().items():
        memory_check.check_plan(smaller, name, traced.lower().compile(), limit)


def test_the_estimate_is_of_each_device():
    """State and results of a batch that eight devices divide: on each, what one has with an eighth of the batch."""
    alone, shared = tiny("probe"), tiny("probe")
    shared.batch_size = 8 * alone.batch_size
    mesh = sharding.make_mesh(dict(data=8, fsdp=1, tensor=1))
    one, eight = experiment(alone, one_device()), experiment(shared, mesh)
    assert memory_check.estimate(one) > memory_check._held(one, on_host=True)
    results = [memory_check.estimate(made) - memory_check._held(made, on_host=True) for made in (one, eight)]
    assert results[1] == pytest.approx(results[0], rel=0.5)


def test_accelerators_hold_the_state_beside_the_plan(limited):
    made = experiment(tiny("probe"), one_device())
    held = memory_check._held(made, on_host=False)
    assert held > 3 * sum(leaf.size * 4 for leaf in jax.tree.leaves(made.abstract_params))  # and Adam's moments
    limited(MemoryLimit(held, "on each chip", on_host=False))
    memory_check.check_shapes(made)
    limited(MemoryLimit(held - 1, "on each chip", on_host=False))
    with pytest.raises(UserError, match=r"are on each chip; .* choose a smaller model \(model.variant"):
        memory_check.check_shapes(made)


def test_stage_and_images_in_pairs():
    made = experiment(large("classify", 12), one_device())
    object.__setattr__(made, "stage", "finetune")
    advice = memory_advice.advise(made, lambda smaller: smaller.config.optimizer.accumulate > 4)
    assert advice == "set --config.finetune.optimizer.accumulate=6 (the same batch of 12, 2 examples at a time)"
    advice = memory_advice.advise(made, lambda smaller: smaller.config.batch_size < 7)
    assert advice == "set --config.finetune.batch_size=6"
    assert memory_advice.halve(made).endswith("accumulate=2 (the same batch of 12, 6 examples at a time)")


def test_devices_split_every_micro_batch():
    made = experiment(large("probe", 32), sharding.make_mesh(dict(data=2, fsdp=4, tensor=1)))
    sizes = []
    advice = memory_advice.advise(made, lambda smaller: bool(sizes.append(smaller.config.optimizer.accumulate)))
    assert set(sizes) >= {4} and "even a batch of 8 does not fit" in advice


def test_cpu_devices_share_what_is_free(monkeypatch):
    monkeypatch.setattr(memory_limit.host_memory, "available_bytes", lambda: 800)
    mesh = sharding.make_mesh(dict(data=8, fsdp=1, tensor=1))
    assert memory_limit.find_limit(mesh) == MemoryLimit(100, "free for each of 8 CPU devices", True)
    # Two processes of eight devices on a host, and one on another.
    monkeypatch.setattr(memory_limit, "gather_limits", lambda *own: ['["a", 8, 800]', '["a", 8, 640]', '["b", 8, 80]'])
    assert memory_limit.find_limit(mesh).size == 10
    monkeypatch.setattr(memory_limit, "gather_limits", lambda *own: ['["a", 8, 800]', '["a", 8, 640]'])
    assert memory_limit.find_limit(mesh).size == 40
    monkeypatch.setattr(memory_limit, "gather_limits", lambda *own: ['["a", 8, 800]', '["b", 8, null]'])
    assert memory_limit.find_limit(mesh) is None


def test_only_results_that_must_be_written_count():
    @jax.jit
    def function(x, y):
        dead = jnp.ones((4000, 1)) @ x[:1]  # not needed
        outer = jnp.outer(x[:, 0], jnp.ones(5000))  # becomes a product that is fused
        return jnp.sum(x @ y) + jnp.sum(outer), dead.shape[0]

    traced = function.trace(jnp.ones((8, 16)), jnp.ones((16, 32)))
    assert largest_written(traced) == 8 * 32 * 4


def test_memory_that_runs_out_is_one_line():
    exhausted = pytest.raises(UserError, match=r"memory ran out \(RESOURCE_EXHAUSTED.*\): lower it")
    with exhausted, memory_check.explained(lambda: "lower it"):
        jax.block_until_ready(jnp.zeros((2**48,), jnp.int8))  # more than an address space
    with pytest.raises(UserError, match=r"memory ran out.*: lower it"), memory_check.explained(lambda: "lower it"):
        np.zeros(2**60, np.int8)
    with pytest.raises(ValueError), memory_check.explained(lambda: "lower it"):
        raise ValueError


@pytest.mark.parametrize("shards", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_evaluation_in_micro_batches_gives_the_same(shards):
    rng, results = np.random.default_rng(0), []
    images = {
        "image": rng.uniform(0, 1, (43, 16, 16, 3)).astype(np.float32),
        "label": rng.integers(0, 10, 43).astype(np.int32),
    }
    mesh = sharding.make_mesh(dict(data=shards, fsdp=1, tensor=1), jax.devices()[:shards])
    for accumulate in (1, 4):
        config = tiny("probe")
        config.optimizer.accumulate = accumulate
        task = tasks.create_task(config)
        params = run_once(task.init, jax.random.key(0))
        frozen = {part: run_once(made.init, jax.random.key(1)) for part, made in task.frozen_parts.items()}
        with jax.set_mesh(mesh):
            results.append(Evaluator(task, mesh).run(params, frozen, Examples(images, 32)).numbers)
    assert results[0]["images"] == 43
    assert results[1] == pytest.approx(results[0], rel=1e-5)
