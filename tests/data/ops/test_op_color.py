import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance

from beit_jax.data.ops import color
from beit_jax.data.ops.pixel_levels import columns_first, rows_first
from beit_jax.errors import UserError

ENHANCERS = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color}


@pytest.mark.parametrize("name", ENHANCERS)
@pytest.mark.parametrize("factor", [0.0, 0.6, 0.95, 1.0, 1.4, 2.0])
def test_enhancement_equals_pillow(picture, name, factor):
    image = picture(1, 31, 22)
    expected = np.asarray(ENHANCERS[name](Image.fromarray(image)).enhance(factor), int)
    columns = getattr(color, name)(columns_first(tf.constant(image)), tf.constant(factor, tf.float32))
    found = rows_first(columns).numpy().astype(int)
    # A product that lands on a whole level may fall to either side of it.
    assert np.abs(found - expected).max() <= 1
    assert np.mean(found != expected) < 0.01


def test_grey_equals_pillow(picture):
    image = picture(2, 31, 22)
    expected = np.asarray(Image.fromarray(image).convert("L")).T[:, None]
    np.testing.assert_array_equal(color.grey(columns_first(tf.constant(image))).numpy(), expected)


def test_jitter_is_the_three_in_some_order(both_ways, picture):
    image = picture(3, 16, 16)
    op, orders = color.color_jitter(0.4), set()
    assert both_ways(op, {"image": image}, [5, 0])["image"].shape == image.shape
    jitter = tf.function(op)
    for index in range(40):
        seed = [5, index]
        found = jitter({"image": tf.constant(image)}, tf.constant(seed, tf.int64))["image"].numpy()
        assert found.dtype == np.uint8
        factors = 0.6 + 0.8 * tf.random.stateless_uniform([2, 3], tf.constant(seed, tf.int64)).numpy()[0]
        errors = {}
        for order in itertools.permutations(range(3)):
            expected = Image.fromarray(image)
            for turn, which in enumerate(order):
                expected = list(ENHANCERS.values())[which](expected).enhance(factors[turn])
            errors[order] = np.abs(found.astype(int) - np.asarray(expected, int)).mean()
        best = min(errors, key=errors.get)
        assert errors[best] < 0.05
        orders.add(best)
    assert len(orders) == 6


def test_strength_zero_changes_nothing(both_ways, picture):
    image = picture(4, 16, 16)
    np.testing.assert_array_equal(both_ways(color.color_jitter(0.0), {"image": image}, [0, 0])["image"], image)


def test_mistakes():
    with pytest.raises(UserError, match="found the strength"):
        color.color_jitter(1.5)
    with pytest.raises(UserError, match="before normalize"):
        color.color_jitter()({"image": tf.zeros([4, 4, 3])}, tf.constant([0, 0], tf.int64))
