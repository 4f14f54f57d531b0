"""The segmentation task: running statistics in the state, whole images of any size, labels, and pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch
from ml_collections import ConfigDict
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.models.label_maps import IGNORE
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks import segment
from beit_jax.training import optimizer, sharding, train_step
from beit_jax.training.evaluation import Evaluator
from beit_jax.training.params import flatten, split, unflatten

pytestmark = pytest.mark.usefixtures("in_the_checkout")  # with the promotion of types that optax needs


@pytest.fixture(scope="module", params=[pytest.param("upernet", marks=pytest.mark.slow), "setr_pup"])
def made(request):
    config = tiny("segment")
    config.model.head, config.model.drop_path = request.param, 0.0
    config.model.layers = (0, 0, 1, 1)
    config.model.auxiliary_channels = 8
    task = tasks.create_task(config)
    return config, task, run_once(task.init, jax.random.key(0))


def device_batch(task, rows=8, seed=0):
    return {name: jnp.asarray(values) for name, values in random_batch(task, rows, seed).items()}


def first_state(task, params, tx):
    learned, _ = split(params, task.without_gradient)
    return train_step.TrainState(jnp.int32(0), params, tx.init(learned), None)


def test_loss_is_that_of_all_heads(made):
    config, task, params = made
    batch = device_batch(task)
    metrics, _ = jax.jit(task.loss)(params, {}, batch, jax.random.key(0), jnp.int32(0))
    (logits, auxiliary), _ = task.model.apply(
        {"params": params}, batch["image"], train=True, mutable=["updates"], rngs={"dropout": jax.random.key(1)}
    )

    def plain(logits):
        logits = jax.image.resize(logits, (*batch["label_map"].shape, 4), "bilinear", antialias=False)
        log_p = jax.nn.log_softmax(logits)
        return -np.take_along_axis(np.asarray(log_p), np.asarray(batch["label_map"])[..., None], axis=-1).sum()

    expected = plain(logits) + 0.4 * sum(plain(extra) for extra in auxiliary)
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-4)
    assert float(metrics["loss"][1]) == batch["label_map"].size
    assert len(auxiliary) == (4 if config.model.head == "setr_pup" else 1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_running_statistics_are_the_step_s_and_have_no_gradient(made, accumulate):
    """Every micro-batch moves them, as in PyTorch: m <- 0.9 m + 0.1 (statistics of the micro-batch)."""
    config, task, params = made
    tx, _ = optimizer.build_optimizer(config.optimizer, total_steps=10, warmup_steps=0)
    batch = device_batch(task)
    current = first_state(task, params, tx)
    after, _ = jax.jit(train_step.make_step(task, tx, accumulate))(current, {}, batch, jax.random.key(0))
    expected, found = flatten(params), flatten(after.params)
    names = [name for name in expected if name.endswith(("/mean", "/var"))]
    assert names and set(flatten(split(params, task.without_gradient)[1])) == set(names)
    loss, fresh = jax.jit(task.loss), dict(expected)
    for i in range(accumulate):
        part = {name: rows[i::accumulate] for name, rows in batch.items()}
        # From fresh statistics, mean 0 and variance 1, which tells those of the micro-batch.
        updates = flatten(loss(unflatten(fresh), {}, part, jax.random.key(0), jnp.int32(0))[1])
        assert set(updates) == set(names)
        for name in names:
            statistics = (updates[name] - 0.9 * fresh[name]) / 0.1
            expected[name] = 0.9 * expected[name] + 0.1 * statistics
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
        assert np.abs(np.asarray(found[name] - fresh[name])).max() > 1e-6


def scenes(task, sizes, side=24):
    """An evaluation set of images of several sizes on canvases, whose classes are stripes of brightness."""
    rng, rows = np.random.default_rng(0), []
    for index, (height, width) in enumerate(sizes):
        label_height, label_width = height + index % 3, width
        label = np.full((side, side), IGNORE, np.int32)
        label[:label_height, :label_width] = rng.integers(0, 4, (label_height, label_width))
        label[0, 0] = IGNORE
        image = np.zeros((side, side, 3), np.float32)
        pixels = rng.uniform(size=(height, width, 3))
        lying = pixels.swapaxes(0, 1) if height > width else pixels
        image[: lying.shape[0], : lying.shape[1]] = lying
        rows.append((image, label, (height, width), (label_height, label_width)))
    columns = [np.stack([np.asarray(row[i]) for row in rows]) for i in range(4)]
    names = ("image", "label_map", "size", "label_size")
    return {name: column.astype(np.float32 if name == "image" else np.int32) for name, column in zip(names, columns)}


def batches(columns, batch_size):
    total = len(columns["image"])
    for start in range(0, total, batch_size):
        places = np.arange(start, start + batch_size)
        yield {name: column[places % total] for name, column in columns.items()} | {"valid": places < total}


def test_measures_do_not_depend_on_batches_or_devices(made):
    _, task, params = made
    sizes = [(16, 16), (10, 20), (22, 9), (20, 22), (16, 17), (8, 8), (22, 22), (12, 16), (18, 11), (9, 21), (16, 22)]
    columns, results = scenes(task, sizes), []
    alone = sharding.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    eight = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
    for mesh, batch_size in ((alone, 4), (eight, 8)):
        with jax.set_mesh(mesh):
            results.append(Evaluator(task, mesh).run(params, {}, list(batches(columns, batch_size))).numbers)
    assert results[0] == results[1]
    assert results[0]["images"] == len(sizes)
    pixels = sum((height + index % 3) * width for index, (height, width) in enumerate(sizes))
    assert results[0]["ignored"] == pytest.approx(len(sizes) / pixels, rel=1e-5)
    assert 0 < results[0]["miou"] < 0.5


def test_a_batch_without_labels_teaches_nothing_and_breaks_nothing(made):
    config, task, params = made
    batch = device_batch(task) | {"label_map": jnp.full((8, 16, 16), IGNORE, jnp.int32)}
    tx, _ = optimizer.build_optimizer(config.optimizer, total_steps=10, warmup_steps=0)
    state = first_state(task, params, tx)
    state, metrics = jax.jit(train_step.make_step(task, tx))(state, {}, batch, jax.random.key(0))
    assert metrics["loss"] == (0.0, 8 * 16 * 16) and metrics["grad_norm"][0] == 0.0
    assert all(np.isfinite(values).all() for values in jax.tree.leaves(state))


def test_numbers_say_how_many_classes_and_pixels_count(made):
    counts = np.diag([3.0, 0, 0, 1])
    counts[0, 1] = 4  # class 1 is predicted only, class 2 is nowhere
    found = made[1].summarize({"confusion": counts, "pixels": 32.0, "images": 2.0})
    assert (found["classes"], found["ignored"]) == (3, 0.75)
    assert found["miou"] == pytest.approx((3 / 7 + 0 + 1) / 3)


@pytest.mark.parametrize("channels", [2, 4])
def test_pictures_have_three_channels(channels):
    config = tiny("segment")
    config.data.channels = channels
    task = tasks.create_task(config)
    shown = jax.eval_shape(task.pictures, jax.eval_shape(task.init, jax.random.key(0)), {}, task.eval_spec(2))
    assert {picture.shape for picture in shown.values()} == {(2, 16, 16, 3)}


@pytest.mark.parametrize("side", [16, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_overlays_lie_on_the_objects(side, transposed):
    # A bright square in rows 4..7 and columns 8..11 of an image of 8x16 pixels, whose label map is twice as large.
    image = np.zeros((1, 16, 16, 3), np.float32)
    image[0, 4:8, 8:12] = 1.0  # as it lies on the canvas, also if it is 16x8
    label = np.full((1, 32, 32), IGNORE, np.int32)
    label[0, :16, :32] = 0
    label[0, 8:16, 16:24] = 1
    turn = (lambda x: x.swapaxes(1, 2)) if transposed else (lambda x: x)
    order = -1 if transposed else 1
    batch = dict(
        image=jnp.asarray(image),
        label_map=jnp.asarray(turn(label)),
        size=jnp.array([[8, 16][::order]], jnp.int32),
        label_size=jnp.array([[16, 32][::order]], jnp.int32),
    )
    pictures = segment.overlays(batch, batch["label_map"], ConfigDict(dict(num_classes=2, image_size=side)))
    assert pictures["label_map"].shape == (1, side, side, 3)
    marked = np.abs(turn(np.asarray(pictures["label_map"])) - np.asarray(segment.palette(2)[0]) * 0.6).max(axis=-1)[0]
    n = side // 4
    expected = np.zeros((side, side), bool)
    expected[n : 2 * n, 2 * n : 3 * n] = True
    expected[2 * n :] = True  # beside the image, the canvas is white
    np.testing.assert_array_equal(marked > 1e-3, expected)
    np.testing.assert_array_equal(pictures["label_map"], pictures["segmentation"])
    assert float(pictures["image"].min()) >= 0 and float(pictures["image"].max()) <= 1
