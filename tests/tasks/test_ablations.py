"""What the paper's ablations change in the pre-training, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.config import validate
from beit_jax.convert.saving import save_pretrained
from beit_jax.errors import UserError
from beit_jax.models import patch_pixels
from beit_jax.runtime.run_once import run_once


def made(name="pretrain", **changes):
    """A task without stochastic depth, its parameters, its frozen part, and a batch to evaluate."""
    config = tiny(name)
    config.model.drop_path = 0.0
    config.update(changes)
    validate(config)
    task = tasks.create_task(config)
    params = run_once(task.init, jax.random.key(1))
    params["lm_head"]["kernel"] = 30 * params["lm_head"]["kernel"]  # so that predictions differ
    frozen = {name: run_once(part.init, jax.random.key(0)) for name, part in task.frozen_parts.items()}
    batch = {name: jnp.asarray(rows) for name, rows in random_batch(task, 5).items()}
    return config, task, params, frozen, batch | {"valid": jnp.array([True, True, False, True, True])}


def run(name, task, params, frozen, batch):
    if name == "measure":
        return jax.device_get(jax.jit(task.measure)(params, frozen, batch))
    return jax.device_get(jax.jit(task.loss)(params, frozen, batch, jax.random.key(2), jnp.int32(0)))[0]


def everywhere(task, params, batch):
    return np.asarray(task.model.apply({"params": params}, batch["image"], batch["mask"]), np.float64)


def log_softmax(x):
    return x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))


def test_patches_are_those_of_the_image():
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    found = patch_pixels.to_patches(jnp.asarray(images), 3)
    for row in range(3):
        for column in range(3):
            expected = images[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(2, -1)
            np.testing.assert_array_equal(found[:, 3 * row + column], expected)
    np.testing.assert_array_equal(patch_pixels.to_images(found, 3), images)


@pytest.mark.parametrize(("loss_on", "num_masked"), [("masked", 14), ("all", 16)])
def test_pixel_loss(loss_on, num_masked):
    _, task, params, frozen, batch = made("pretrain_pixels", loss_on=loss_on, num_masked=num_masked)
    assert set(task.train_spec(1)) == {"image", "mask"} and not frozen
    assert params["lm_head"]["kernel"].shape == (32, 4 * 4 * 3)
    predicted, images, mask = everywhere(task, params, batch), np.asarray(batch["image"]), np.asarray(batch["mask"])
    squares, counts = np.zeros(5), np.zeros(5)
    for image in range(5):
        for row in range(4):
            for column in range(4):
                if loss_on == "masked" and not mask[image, row, column]:
                    continue
                true = images[image, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].ravel()
                squares[image] += np.mean((predicted[image, 4 * row + column] - true) ** 2)
                counts[image] += 1
    trained = run("loss", task, params, frozen, batch)
    np.testing.assert_allclose(trained["loss"], (squares.sum(), counts.sum()), rtol=1e-5)
    np.testing.assert_allclose(trained["masked_per_image"], (mask.sum(), 5))
    valid = np.asarray(batch["valid"])
    measured = run("measure", task, params, frozen, batch)
    np.testing.assert_allclose(measured["loss"], (squares[valid].sum(), counts[valid].sum()), rtol=1e-5)
    summary = task.summarize(measured)
    assert summary == {"loss": pytest.approx(squares[valid].sum() / counts[valid].sum(), rel=1e-5), "overflow": 0}


@pytest.mark.parametrize("hides", [True, False])
def test_loss_on_all_tokens(hides):
    _, task, params, frozen, batch = made(loss_on="all", num_masked=16)
    if not hides:
        batch["mask"] = jnp.zeros_like(batch["mask"])
        task.check_batch({"mask": np.asarray(batch["mask"])})
    logits = everywhere(task, params, batch)
    tokenize = jax.jit(task.tokenizer.targets)
    tokens = np.asarray(tokenize(frozen["tokenizer"], batch["tokenizer_image"])).reshape(5, 16)
    nll = -np.take_along_axis(log_softmax(logits), tokens[..., None], -1)[..., 0]
    right = logits.argmax(-1) == tokens
    trained = run("loss", task, params, frozen, batch)
    np.testing.assert_allclose(trained["loss"], (nll.sum(), 80), rtol=1e-5)
    np.testing.assert_allclose(trained["all_acc"], (right.sum(), 80))
    assert "mlm_acc" not in trained
    valid, hidden = np.asarray(batch["valid"]), np.asarray(batch["mask"]).reshape(5, 16)
    summary = task.summarize(run("measure", task, params, frozen, batch))
    assert summary["loss"] == pytest.approx(nll[valid].mean(), rel=1e-5)
    assert summary["all_acc"] == pytest.approx(right[valid].mean())
    assert summary["mlm_acc_majority"] == pytest.approx(np.bincount(tokens[valid].ravel()).max() / 64)
    if hides:
        assert summary["mlm_acc"] == pytest.approx(right[valid][hidden[valid]].mean())
    else:
        assert "mlm_acc" not in summary


def test_masks_are_still_checked():
    _, task, *_ = made("pretrain_pixels")
    empty = np.zeros((2, 4, 4), bool)
    with pytest.raises(UserError, match="masks of 0 to 0 patches, expected 1 to num_masked=12"):
        task.check_batch({"mask": empty})


@pytest.mark.parametrize("loss_on", ["masked", "all"])
def test_pictures_of_pixels(loss_on):
    _, task, params, frozen, batch = made("pretrain_pixels", loss_on=loss_on, num_masked=16)
    found = {name: np.asarray(rows) for name, rows in jax.jit(task.pictures)(params, frozen, batch).items()}
    assert set(found) == {"original", "masked", "filled" if loss_on == "masked" else "recovered"}
    images, hidden = np.asarray(batch["image"]), np.repeat(np.repeat(np.asarray(batch["mask"]), 4, 1), 4, 2)
    low, high = images.min((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found["original"], (images - low) / (high - low), atol=1e-6)
    np.testing.assert_array_equal(found["masked"][hidden], 0.5)
    np.testing.assert_array_equal(found["masked"][~hidden], found["original"][~hidden])
    predicted = np.asarray(patch_pixels.to_images(everywhere(task, params, batch), 4))
    shown = np.clip((predicted - low) / (high - low), 0, 1)
    if loss_on == "all":
        np.testing.assert_allclose(found["recovered"], shown, atol=1e-5)
    else:
        np.testing.assert_allclose(found["filled"][hidden], shown[hidden], atol=1e-5)
        np.testing.assert_array_equal(found["filled"][~hidden], found["original"][~hidden])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(loss_on="some"), "loss_on='some'; expected one of masked, all"),
        (dict(loss_on="all"), "counts all 16 patches, but num_masked=12 .* set num_masked=0"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(UserError, match=message):
        made(**changes)


def test_pixels_need_no_tokenizer():
    assert "tokenizer" not in tiny("pretrain_pixels") and "tokens" not in tiny("pretrain_pixels")
    config = tiny("pretrain")
    config.tokenizer.init_from = ""
    with pytest.raises(UserError, match="tokenizer"):
        validate(config)


def test_pixels_are_for_no_other_library(tmp_path):
    config, _, params, *_ = made("pretrain_pixels")
    with pytest.raises(UserError, match="no layout for models of the task 'pretrain_pixels'"):
        save_pretrained(tmp_path / "out", params, config, format="hf")
