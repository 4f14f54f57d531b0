"""Colours in the step: Pillow's numbers, the input's numbers, and the same ones after a restart."""

import inspect
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from beit_jax import config as configs
from beit_jax import tokenize_dataset
from beit_jax.config import validate
from beit_jax.config.op_arguments import SIGNATURES, tokenizer_method
from beit_jax.errors import UserError
from beit_jax.tasks import create_task, create_tokenizer, device_augment

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def tokenizer(image_size):
    section = configs.defaults("pretrain").tokenizer
    return create_tokenizer(section, image_size)


def images(seed, b=6, side=20):
    """uint8 `[b, side, side, 3]`; the last one is grey."""
    random = np.random.default_rng(seed)
    found = random.integers(0, 256, (b, side, side, 3), dtype=np.uint8)
    found[-1] = found[-1, :, :, :1]
    return found


def test_every_order_equals_pillow_and_the_input():
    from beit_jax.data.ops import color, pixel_levels

    random = np.random.default_rng(1)
    order = np.array(list(itertools.permutations(range(3))), np.int32)
    factors = random.uniform(0.6, 1.4, (6, 3)).astype(np.float32)
    pixels = images(0)
    found = np.asarray(jax.jit(device_augment.jitter)(pixels, factors, order))
    for row in range(6):
        by_pillow = Image.fromarray(pixels[row])
        columns = pixel_levels.columns_first(pixels[row])
        for turn, which in enumerate(order[row]):
            by_pillow = ENHANCERS[which](by_pillow).enhance(factors[row, turn])
            enhance = (color.brightness, color.contrast, color.saturation)[which]
            columns = enhance(columns, factors[row, turn])
        by_input = pixel_levels.rows_first(columns).numpy().astype(int)
        # A product that lands on a whole level may fall to either side of it, and the next factors widen that.
        for expected in (np.asarray(by_pillow, int), by_input):
            assert np.abs(found[row] - expected).max() <= 2
            assert np.mean(found[row] != expected) < 0.01


def test_factors_of_one_change_nothing():
    pixels = images(2)
    order = np.tile(np.arange(3, dtype=np.int32), (6, 1))
    np.testing.assert_array_equal(device_augment.jitter(pixels, np.ones((6, 3), np.float32), order), pixels)


def test_draws_are_those_of_the_law():
    factors, order = device_augment.draws(jax.random.key(0), 3000, 0.4)
    assert 0.6 <= factors.min() < 0.61 and 1.39 < factors.max() <= 1.4
    assert abs(float(factors.mean()) - 1.0) < 0.01
    counts = np.unique(np.asarray(order), axis=0, return_counts=True)[1]
    assert len(counts) == 6 and counts.min() > 400


def test_finished_views_are_normalised():
    pixels = images(3)
    batch = {"image": jnp.asarray(pixels), "mask": jnp.ones(2)}
    config = configs.defaults("pretrain")
    config.data.statistics = "imagenet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_augment, "JITTER", 0.0)
        found = device_augment.make_views(batch, jax.random.key(5), config, tokenizer(20))
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found["image"], expected, atol=1e-5)
    np.testing.assert_allclose(found["tokenizer_image"], 0.8 * pixels / 255 + 0.1, atol=1e-6)
    assert found["mask"] is batch["mask"]
    one, same, other = (
        device_augment.make_views(batch, jax.random.key(key), config, tokenizer(10))["image"] for key in (5, 5, 6)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other) and not np.array_equal(one, found["image"])


@pytest.mark.parametrize("method", device_augment.FILTERS)
@pytest.mark.parametrize("size", [20, 10, 7])
def test_the_smaller_view_equals_pillow(size, method):
    pixels = np.random.default_rng(6).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    found = np.asarray(device_augment.smaller(jnp.asarray(pixels), (size, size), method))
    window = Image.Resampling[method.upper()]
    expected = np.array([np.asarray(Image.fromarray(row).resize((size, size), window), int) for row in pixels])
    # Of noise; Pillow rounds and cuts between the two passes.
    assert np.abs(found - expected).max() <= 4 and np.abs(found - expected).mean() < 0.5


def config_of(repository, arguments):
    config = configs.load(str(repository / "configs" / f"pretrain.py:{arguments}"))
    config.tokenizer.init_from = "random"
    return config


@pytest.mark.parametrize(
    ("arguments", "expected"), [("fast", "lanczos"), ("fast,v2", "bicubic"), ("", "lanczos"), ("v2", "bicubic")]
)
def test_the_step_makes_the_view_of_the_ops(repository, arguments, expected):
    assert tokenizer_method(config_of(repository, arguments)) == expected


def test_the_tokenizer_s_view_is_made_by_that_filter(repository):
    pixels = images(7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_augment, "JITTER", 0.0)
        for arguments, window in (("fast", Image.LANCZOS), ("fast,v2", Image.BICUBIC)):
            config = config_of(repository, arguments + ",kind=dvae")
            made = device_augment.make_views({"image": jnp.asarray(pixels)}, jax.random.key(5), config, tokenizer(10))
            found = 255 * (np.asarray(made["tokenizer_image"]) - 0.1) / 0.8
            expected = np.array([np.asarray(Image.fromarray(row).resize((10, 10), window), int) for row in pixels])
            assert np.abs(found - expected).max() <= 4.1 and np.abs(found - expected).mean() < 0.5


def test_views_by_name_and_by_position():
    from beit_jax.data import preprocessing

    preprocessing.build_program("decode")  # loads all ops
    for name, arguments in SIGNATURES.items():
        signature = inspect.signature(preprocessing.OPS[name].factory).parameters
        by_position = [name for name, argument in signature.items() if argument.kind != argument.KEYWORD_ONLY]
        assert tuple(by_position) == arguments
        assert "tokenizer_method" not in signature or signature["tokenizer_method"].default == "lanczos"
    config = configs.defaults("pretrain")
    for ops, expected in (
        ("decode|two_views_center(16, 16, 0.8, 'bilinear')|keep('image')", "bilinear"),
        ("decode|two_views(image_size, tokenizer_size, 0.1, 1.0, 'bicubic')", "bicubic"),
        ("decode|two_views_center(16, 16)", "lanczos"),
        ("decode|one_s_own(16)", "lanczos"),
    ):
        config.data.eval_ops = ops
        assert tokenizer_method(config) == expected


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["", ",v2"])
def test_the_step_takes_levels(repository, arguments):
    config = config_of(repository, f"runlocal,fast{arguments}")
    validate(config)
    task = create_task(config)
    specs = task.train_spec(4)
    assert {name: spec.dtype.name for name, spec in specs.items()} == {
        "image": "uint8", "mask": "bool",
    }  # fmt: skip
    assert {spec.dtype.name for spec in task.eval_spec(4).values()} == {"float32", "bool"}
    params = task.init(jax.random.key(0))
    frozen = {"tokenizer": task.frozen_parts["tokenizer"].init(jax.random.key(1))}
    batch = {name: images(4, 4, spec.shape[1]) for name, spec in specs.items() if name != "mask"}
    batch["mask"] = np.arange(16).reshape(1, 4, 4).repeat(4, 0) < 5
    loss = jax.jit(task.loss)
    found = loss(params, frozen, batch, jax.random.key(7), 0)[0]["loss"][0]
    finished = device_augment.make_views(batch, jax.random.key(7), config, task.tokenizer)
    config.device_augment = False
    expected = jax.jit(create_task(config).loss)(params, frozen, finished, jax.random.key(7), 0)[0]["loss"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert float(loss(params, frozen, batch, jax.random.key(8), 0)[0]["loss"][0]) != float(found)


def test_stored_tokens_refuse_colours_of_the_step(repository, tmp_path):
    config = config_of(repository, "runlocal,fast")
    message = re.escape("device_augment=True: the step changes the colours that stored tokens are of")
    with pytest.raises(UserError, match=message) as error:
        tokenize_dataset.tokenize(config, "", tmp_path / "tokens", 0, 1)
    assert "\n" not in str(error.value) and not (tmp_path / "tokens").exists()
    config.tokens = "somewhere"
    with pytest.raises(UserError, match=message):
        validate(config)
