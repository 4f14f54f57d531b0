import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks.mixup import cutmix_box, group_size, mix


@pytest.fixture(autouse=True)
def promotion_that_random_draws_need():
    with jax.numpy_dtype_promotion("standard"):
        yield


def images(b=4, h=12, w=10):
    return np.random.default_rng(0).standard_normal((b, h, w, 3)).astype(np.float32)


def mix_all(key, images, mixup, cutmix):
    """With one draw for all images."""
    mixed, fractions, _ = mix(key, images, jnp.arange(len(images)), mixup, cutmix, len(images))
    return mixed, fractions[0]


def test_each_group_has_its_own_draw_and_partners():
    """Of 1024 images officially 8 groups of 128, one on each GPU."""
    assert [group_size(1024, 128), group_size(512, 64), group_size(100, 64), group_size(6, 64)] == [128, 64, 50, 6]
    x, labels = jnp.asarray(images(12)), jnp.arange(12)
    mixed, fractions, partners = jax.jit(lambda key: mix(key, x, labels, 0.8, 0.0, 4))(jax.random.key(3))
    assert partners.tolist() == [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8]
    fraction = np.asarray(fractions)[:, None, None, None]
    np.testing.assert_allclose(mixed, fraction * x + (1 - fraction) * x[partners], atol=1e-6)
    groups = np.asarray(fractions).reshape(3, 4)
    assert (groups == groups[:, :1]).all() and len(np.unique(groups[:, 0])) == 3


def test_mixup_blends_with_the_reversed_batch():
    x = images()
    mixed, fraction = jax.jit(lambda key: mix_all(key, x, 0.8, 0.0))(jax.random.key(0))
    np.testing.assert_allclose(mixed, fraction * x + (1 - fraction) * x[::-1], atol=1e-6)
    assert 0 < fraction < 1


def test_cutmix_takes_a_box_and_counts_its_pixels():
    x = images()
    run = jax.jit(lambda key: mix_all(key, x, 0.0, 1.0))
    for seed in range(20):
        mixed, fraction = run(jax.random.key(seed))
        taken = np.any(np.asarray(mixed) != x, axis=(0, 3))
        rows, columns = np.flatnonzero(taken.any(1)), np.flatnonzero(taken.any(0))
        assert taken.sum() == len(rows) * len(columns)
        np.testing.assert_allclose(fraction, 1 - taken.mean(), atol=1e-6)
        np.testing.assert_array_equal(np.asarray(mixed)[:, taken], x[::-1][:, taken])


def test_boxes_as_defined():
    """Sides are truncated, halved and rounded down; the centre is uniform; what is outside is lost."""
    keys = jax.random.split(jax.random.key(0), 2000)
    boxes = np.asarray(jax.jit(jax.vmap(lambda key: cutmix_box(key, jnp.float32(0.6), 20, 30)))(keys))
    heights, widths = boxes.any(2).sum(1), boxes.any(1).sum(1)
    assert heights.max() == int(20 * 0.4**0.5) // 2 * 2 and widths.max() == int(30 * 0.4**0.5) // 2 * 2
    assert heights.min() == 6 and (heights[boxes[:, 10].any(1)] > 0).all()
    corner, centre = boxes[:, 0, 0].mean(), boxes[:, 10, 15].mean()
    assert abs(corner - 7 * 10 / 600) < 0.02 and abs(centre - 12 * 18 / 600) < 0.04


def test_half_of_the_batches_are_cut_and_fractions_are_beta_distributed():
    x = jnp.asarray(images(2, 4, 4))
    keys = jax.random.split(jax.random.key(1), 4000)
    mixed, fractions = jax.jit(jax.vmap(lambda key: mix_all(key, x, 0.8, 1.0)))(keys)
    # CutMix leaves each pixel as one of the two; mixup almost never does.
    cut = (np.isclose(mixed, x[None]) | np.isclose(mixed, x[None, ::-1])).all((1, 2, 3, 4))
    assert abs(np.mean(cut) - 0.5) < 0.03
    blended = np.asarray(fractions)[~cut]
    assert abs(blended.mean() - 0.5) < 0.03 and abs(blended.var() - 1 / (4 * 2.6)) < 0.01  # Beta(0.8, 0.8)


def test_loss_is_that_of_the_mixed_and_smoothed_target():
    config = tiny("classify")
    config.model.drop_path, config.mixup, config.label_smoothing = 0.0, 0.8, 0.1
    task = tasks.create_task(config)
    params = run_once(task.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    batch = {name: jnp.asarray(rows) for name, rows in random_batch(task, 6).items()}
    key = jax.random.key(5)
    metrics, _ = jax.jit(task.loss)(params, {}, batch, key, jnp.int32(0))
    assert "top1" not in metrics
    mixed, fraction = mix_all(jax.random.fold_in(key, 1), batch["image"], 0.8, 0.0)
    logits = task.model.apply({"params": params}, mixed)
    on, off = 0.9 + 0.1 / 10, 0.1 / 10
    one_hot = np.full((6, 10), off) + (on - off) * np.eye(10)[np.asarray(batch["label"])]
    target = fraction * one_hot + (1 - fraction) * one_hot[::-1]
    expected = -(target * jax.nn.log_softmax(logits)).sum()
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-5)
