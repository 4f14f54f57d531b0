"""Pre-training on features: targets, loss and average beside NumPy."""

import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from batches import random_batch

from beit_jax import tasks
from beit_jax.config import validate
from beit_jax.errors import UserError
from beit_jax.runtime.run_once import run_once
from beit_jax.training.params import flatten


def config(source="average", **teacher):
    made = tiny.config("pretrain_features")
    made.model.drop_path, made.target.source = 0.0, source
    made.data.ops = "decode|normalize((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))"
    if source == "teacher":
        made.teacher.update(dict(kind="encoder", variant="32x3x2/8", image_size=16, layer=2) | teacher)
    return made


def parts(made, seed=1):
    params = run_once(made.init, jax.random.key(seed))
    frozen = {name: run_once(part.init, jax.random.key(2)) for name, part in made.frozen_parts.items()}
    return params, frozen, {name: jnp.asarray(rows) for name, rows in random_batch(made, 4).items()}


def begun(params):
    """An average that differs from the encoder."""
    return {"encoder": jax.tree.map(lambda x: x + 0.1, params["encoder"]), "is_made": jnp.ones(1)}


def standardised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def smooth_l1(difference, beta):
    size = np.abs(difference)
    return np.where(size < beta, size**2 / (2 * beta), size - beta / 2).mean(-1)


def expected_loss(made, params, targets, batch):
    """Of `targets` `[b, 16, c]`, over the masked patches."""
    mask = np.asarray(batch["mask"]).reshape(4, 16)
    predicted = np.asarray(made.model.apply({"params": params}, batch["image"], batch["mask"], None))
    return smooth_l1(predicted - targets, made.config.target.beta)[mask].mean()


@pytest.mark.parametrize("beta", [2.0, 0.5])
def test_the_average_predicts_its_last_blocks(beta):
    settings = config()
    settings.target.beta = beta
    made = tasks.create_task(settings)
    params, frozen, batch = parts(made)
    params["average"] = begun(params)
    metrics, new = jax.jit(made.loss)(params, frozen, batch, jax.random.key(0), jnp.int32(5))
    followed = jax.tree.map(lambda a, e: 0.9 * a + 0.1 * e, params["average"]["encoder"], params["encoder"])
    for name, value in flatten(followed).items():
        np.testing.assert_allclose(flatten(new["average"]["encoder"])[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    outputs = made.model.encoder.apply({"params": followed}, batch["image"], all_layers=True)
    targets = standardised(standardised(np.asarray(outputs)[-2:, :, 1:]).mean(axis=0))
    found = metrics["loss"][0] / metrics["loss"][1]
    assert float(found) == pytest.approx(expected_loss(made, params, targets, batch), rel=1e-4)
    assert set(new) == {"average"}


def test_the_average_starts_as_the_encoder_of_any_start():
    made = tasks.create_task(config())
    params, frozen, batch = parts(made)
    jax.tree.map(np.testing.assert_array_equal, params["average"]["encoder"], params["encoder"])
    params["encoder"] = jax.tree.map(lambda x: x + 0.1, params["encoder"])  # as read from another run
    _, new = jax.jit(made.loss)(params, frozen, batch, jax.random.key(0), jnp.int32(1))  # the first may be skipped
    jax.tree.map(np.testing.assert_array_equal, new["average"]["encoder"], params["encoder"])
    assert all(any(re.search(pattern, f"average/{name}") for pattern in made.optional_parameters) for name in new)


def test_micro_batches_share_the_decay_of_a_step():
    settings = config()
    settings.optimizer.accumulate = 4
    made = tasks.create_task(settings)
    params, frozen, batch = parts(made)
    params["average"] = start = begun(params)
    for _ in range(4):
        params |= jax.jit(made.loss)(params, frozen, batch, jax.random.key(0), jnp.int32(5))[1]
    expected = jax.tree.map(lambda a, e: 0.9 * a + 0.1 * e, start["encoder"], params["encoder"])
    for name, value in flatten(expected).items():
        np.testing.assert_allclose(
            flatten(params["average"]["encoder"])[name], value, rtol=1e-5, atol=1e-6, err_msg=name
        )


def test_a_teacher_sees_its_own_pixels_on_its_own_grid():
    """Of 2 by 2 patches of 8 pixels: each is repeated between the centres of the model's 4 by 4."""
    made = tasks.create_task(config("teacher"))
    params, frozen, batch = parts(made)
    assert made.outputs == 32 and "average" not in params
    pixels = np.asarray(batch["image"]) * [0.1, 0.2, 0.3] + [0.4, 0.5, 0.6]
    features = made.teacher.features(frozen["teacher"], jnp.asarray(pixels, jnp.float32))
    square = np.asarray(features).reshape(4, 2, 2, 32)
    weights = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])  # bilinear, without extrapolation
    targets = standardised(np.einsum("yi,xj,bijc->byxc", weights, weights, square).reshape(4, 16, 32))
    metrics, new = jax.jit(made.loss)(params, frozen, batch, jax.random.key(0), jnp.int32(0))
    found = metrics["loss"][0] / metrics["loss"][1]
    assert float(found) == pytest.approx(expected_loss(made, params, targets, batch), rel=1e-4) and new == {}
    sums = jax.device_get(jax.jit(made.measure)(params, frozen, batch | {"valid": np.array([1, 1, 1, 0], bool)}))
    summary = made.summarize(sums)
    chosen = targets[:3][np.asarray(batch["mask"]).reshape(4, 16)[:3]]
    assert summary["target_variance"] == pytest.approx(chosen.var(axis=0).mean(), rel=1e-3)


def test_targets_that_collapse_are_told(caplog):
    made = tasks.create_task(config())
    sums = {"loss": (1.0, 1.0), "overflow": 0.0, "targets": (np.array([4.0, -4.0]), np.array([4.0, 4.1])), "count": 4.0}
    with caplog.at_level(logging.WARNING, "beit_jax"):
        made.summarize(sums)
    assert "the targets have collapsed: their variance over patches is 0.0" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target.layers": 3}, "target.layers=3; expected at most 2"),
        ({"teacher.path": "runs/clip"}, "teacher.path=runs/clip is not used with target.source=average"),
        ({"target.source": "teacher", "teacher.image_size": 20}, "teacher.image_size=20 is not divisible"),
    ],
)
def test_wrong_values(changes, message):
    made = tiny.config("pretrain_features")
    made.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        validate(made)
