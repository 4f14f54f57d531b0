import math
import random

import numpy as np
import pytest
import tensorflow as tf

from beit_jax.data.ops import crop_box
from beit_jax.errors import UserError

SCALE = (0.08, 1.0)


def official_box(source, height, width):
    """The rule with Python's random numbers: the box, and the uniform numbers that choose the same box."""
    draws = []
    for _ in range(10):
        fraction, aspect = source.random(), source.random()
        area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * fraction)
        ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * aspect)
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if not (0 < box_width <= width and 0 < box_height <= height):
            draws.append([fraction, aspect, 0.0, 0.0])
            continue
        top, left = source.randint(0, height - box_height), source.randint(0, width - box_width)
        corner = [(top + 0.5) / (height - box_height + 1), (left + 0.5) / (width - box_width + 1)]
        draws.append([fraction, aspect, *corner])
        break
    else:
        return None, draws
    return (top, left, box_height, box_width), draws + [[0.5] * 4] * (10 - len(draws))


@pytest.mark.parametrize(("seed", "box"), [(0, (3, 5, 372, 432)), (1, (195, 32, 177, 216)), (2, (0, 2, 373, 482))])
def test_golden_boxes_of_the_reference(seed, box):
    # Expected: unilm beit/transforms.py on an image 500 wide and 375 high after random.seed(seed).
    expected, draws = official_box(random.Random(seed), 375, 500)
    assert expected == box
    found = crop_box.box_from_draws(tf.constant(draws, tf.float64), 375, 500, SCALE)
    assert tuple(found.numpy()) == box


def test_many_boxes_equal_the_rule():
    source = random.Random(5)
    function = tf.function(lambda draws, height, width: crop_box.box_from_draws(draws, height, width, SCALE))
    for _ in range(300):
        height, width = source.randint(1, 60), source.randint(1, 60)
        expected, draws = official_box(source, height, width)
        if expected is not None:
            found = function(tf.constant(draws, tf.float64), tf.constant(height), tf.constant(width))
            assert tuple(found.numpy()) == expected


@pytest.mark.parametrize(
    ("size", "box"), [((100, 10), (43, 0, 13, 10)), ((10, 100), (0, 43, 10, 13)), ((50, 60), (0, 0, 50, 60))]
)
def test_central_box_when_nothing_fits(size, box):
    draws = tf.ones([10, 4], tf.float64) * [0.999, 0.999, 0.5, 0.5]  # the whole area at 4:3 fits none of these
    assert tuple(crop_box.box_from_draws(draws, *size, (1.0, 1.0)).numpy()) == box


def test_random_boxes_fill_the_ranges():
    image = tf.zeros([64, 64, 3], tf.uint8)
    seeds = tf.stack([tf.zeros(500, tf.int64), tf.range(500, dtype=tf.int64)], 1)
    draw = tf.function(
        lambda: tf.map_fn(lambda seed: crop_box.random_box(seed, image, SCALE), seeds, fn_output_signature=tf.int32)
    )
    boxes = draw().numpy()
    top, left, height, width = boxes.T
    assert np.all((top >= 0) & (left >= 0) & (top + height <= 64) & (left + width <= 64))
    fraction = height * width / 64**2
    assert 0.07 < fraction.min() < 0.12 and fraction.max() > 0.9
    # Boxes whose sides do not fit are drawn again, so that the mean lies below (0.08 + 1) / 2.
    assert 0.45 < fraction.mean() < 0.53
    assert abs(np.log(width / height).mean()) < 0.03


@pytest.mark.parametrize(("fraction", "box"), [(1.0, (0, 5, 20, 20)), (0.5, (5, 10, 10, 10)), (0.01, (9, 14, 1, 1))])
def test_central_square(fraction, box):
    assert tuple(crop_box.central_box(tf.zeros([20, 30, 3]), fraction).numpy()) == box


def test_mistakes():
    for scale in ((0.0, 1.0), (0.5, 0.4), (0.5, 1.5)):
        with pytest.raises(UserError, match="0 < scale_min <= scale_max <= 1"):
            crop_box.check_scale("op", *scale)
    with pytest.raises(UserError, match="smallest, largest"):
        crop_box.check_scale("op", 0.1, 1.0, (2.0, 1.0))
