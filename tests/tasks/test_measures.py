"""Measures of the tasks against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch, random_values
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.models import dvae_tokenizer, tokenizer
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks.masked_modelling import masked_first
from beit_jax.tasks.tokenizer import codebook_usage


def test_perplexity_counts_codes_in_use():
    sums = {"codes": np.array([5, 5, 5, 5, 0, 0, 0, 0]), "loss": (2.0, 4.0)}
    summary = tasks.create_task(tiny("tokenizer")).summarize(sums)
    assert summary["perplexity"] == pytest.approx(4.0) and summary["perplexity_fraction"] == pytest.approx(0.5)
    assert (summary["codes_used"], summary["loss"]) == (4.0, 0.5)
    assert codebook_usage(np.array([9, 0]))["perplexity"] == pytest.approx(1.0)


def test_kl_to_uniform():
    logits = jnp.array([[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(tokenizer.kl_to_uniform(logits), [0.0, np.log(4.0)], atol=1e-6)


def test_annealing_ends_where_it_says():
    values = [float(dvae_tokenizer.cosine(1.0, 1 / 16, 100, jnp.int32(step))) for step in (0, 50, 100, 1000)]
    np.testing.assert_allclose(values, [1.0, (1 + 1 / 16) / 2, 1 / 16, 1 / 16], rtol=1e-6)
    assert float(dvae_tokenizer.cosine(0.0, 6.6, 10, jnp.int32(0))) == 0.0


def test_gathered_positions_are_the_masked_ones_in_order():
    mask = np.zeros((2, 3, 3), bool)
    mask[0, 0, 1] = mask[0, 2, 2] = mask[1, 1, 0] = True
    positions, weights = masked_first(jnp.asarray(mask), 3)
    assert positions[0, :2].tolist() == [1, 8] and positions[1, :1].tolist() == [3]
    assert weights.tolist() == [[1, 1, 0], [1, 0, 0]]


def test_masks_larger_than_the_head_are_reported():
    config = tiny("pretrain")
    config.num_masked = 3
    task = tasks.create_task(config)
    batch = {name: jnp.asarray(rows) for name, rows in random_batch(task, 4).items()}
    batch |= {"mask": jnp.ones((4, 4, 4), bool), "valid": jnp.array([True, True, True, False])}
    frozen = {"tokenizer": run_once(task.frozen_parts["tokenizer"].init, jax.random.key(0))}
    sums = jax.jit(task.measure)(run_once(task.init, jax.random.key(1)), frozen, batch)
    assert float(sums["overflow"]) == 3 * (16 - 3)
    assert float(sums["loss"][1]) == 3 * 3


def test_majority_baseline():
    summary = tasks.create_task(tiny("pretrain")).summarize(
        {"tokens": np.array([1, 6, 3]), "overflow": 0.0, "loss": (1.0, 1.0)}
    )
    assert summary["mlm_acc_majority"] == pytest.approx(0.6)


@pytest.mark.parametrize("broken", [0.0, jnp.nan])
def test_constant_and_broken_logits_score_nothing(broken):
    task = tasks.create_task(tiny("classify"))
    params = jax.tree.map(lambda leaf: leaf * 0.0, run_once(task.init, jax.random.key(0)))
    params["head"]["bias"] = params["head"]["bias"] + broken
    batch = {name: jnp.asarray(rows) for name, rows in random_batch(task, 4).items()} | {"valid": jnp.ones(4, bool)}
    sums = jax.jit(task.measure)(params, {}, batch)
    assert float(sums["top1"][0]) == 0.0 and float(sums["top5"][0]) == 0.0


def test_padded_rows_count_nothing():
    task = tasks.create_task(tiny("classify"))
    params = run_once(task.init, jax.random.key(0))
    batch = {name: jnp.asarray(rows) for name, rows in random_batch(task, 8).items()}
    some = jnp.arange(8) < 5
    padded = jax.jit(task.measure)(params, {}, batch | {"valid": some})
    alone = jax.jit(task.measure)(params, {}, {name: rows[:5] for name, rows in batch.items()} | {"valid": some[:5]})
    assert task.summarize(jax.device_get(padded)) == pytest.approx(task.summarize(jax.device_get(alone)))
    assert task.summarize(jax.device_get(padded))["images"] == 5


def test_label_smoothing_is_the_official_mixture():
    config = tiny("classify")
    config.model.drop_path, config.label_smoothing = 0.0, 0.1
    task = tasks.create_task(config)
    params = run_once(task.init, jax.random.key(0))
    batch = {name: jnp.asarray(rows) for name, rows in random_batch(task, 4).items()}
    smoothed = jax.jit(task.loss)(params, {}, batch, jax.random.key(1), jnp.int32(0))[0]["loss"]
    plain = jax.jit(task.measure)(params, {}, batch | {"valid": jnp.ones(4, bool)})["loss"]
    # The logits of an untrained head are near 0, so that every log p is near -ln 10.
    np.testing.assert_allclose(smoothed[0], 0.9 * plain[0] + 0.1 * 4 * np.log(10), rtol=1e-4)


@pytest.mark.parametrize("name", ["pretrain", "classify"])
def test_a_tie_counts_against_the_model(name):
    """Where every class is as likely as every other, nothing is right: in pre-training as in classification."""
    config = tiny(name)
    task = tasks.create_task(config)
    params = jax.tree.map(lambda leaf: leaf * 0.0, run_once(task.init, jax.random.key(0)))
    frozen = {part: run_once(made.init, jax.random.key(0)) for part, made in task.frozen_parts.items()}
    batch = {key: jnp.asarray(values) for key, values in random_values(task.eval_spec(4), task).items()}
    sums = jax.jit(task.measure)(params, frozen, batch | {"valid": jnp.ones(4, bool)})
    right, count = sums["mlm_acc" if name == "pretrain" else "top1"]
    assert float(right) == 0.0 and float(count) > 0
