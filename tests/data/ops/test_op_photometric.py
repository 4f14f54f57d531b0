import colorsys

import numpy as np
import pytest
import tensorflow as tf

from beit_jax.data.ops import photometric
from beit_jax.errors import UserError

# OpenCV 5.0's cvtColor of 8-bit levels, RGB to HSV; the first three show how coarse its fixed point is.
TO_HSV = {
    (10, 0, 200): (121, 255, 200), (20, 0, 245): (123, 255, 245), (5, 5, 150): (120, 246, 150),
    (200, 30, 60): (175, 217, 200), (17, 180, 90): (73, 231, 180), (255, 255, 255): (0, 0, 255), (0, 0, 0): (0, 0, 0),
    (250, 128, 1): (15, 254, 250), (90, 90, 200): (120, 140, 200),
}  # fmt: skip
FROM_HSV = {
    (0, 255, 255): (255, 0, 0), (15, 200, 90): (90, 55, 19), (47, 128, 255): (182, 255, 127),
    (90, 77, 33): (23, 33, 33), (121, 255, 200): (7, 0, 200), (179, 10, 250): (250, 240, 241),
    (60, 0, 140): (140, 140, 140),
}  # fmt: skip


def levels(colours):
    return tf.constant([list(colours)], tf.float32)


def hsv(image):
    return tf.stack(photometric.to_hsv(image), axis=-1).numpy()


def test_levels_of_opencv():
    np.testing.assert_array_equal(hsv(levels(TO_HSV)), [list(TO_HSV.values())])
    found = photometric.from_hsv(*tf.unstack(levels(FROM_HSV), axis=-1))
    np.testing.assert_array_equal(found, [list(FROM_HSV.values())])


def test_hue_saturation_and_value_are_those_of_the_definition(picture):
    image = picture(0, 20, 30)
    scale = np.array([180, 255, 255])
    exact = scale * [[colorsys.rgb_to_hsv(*pixel) for pixel in row] for row in image / 255.0]
    distance = np.abs(hsv(tf.constant(image, tf.float32)) - exact)
    distance[..., 0] = np.minimum(distance[..., 0], 180 - distance[..., 0])
    assert distance.max() <= 1
    found = photometric.from_hsv(*tf.unstack(tf.constant(np.round(exact), tf.float32), axis=-1))
    back = [[colorsys.hsv_to_rgb(*pixel) for pixel in row] for row in np.round(exact) / scale]
    assert np.abs(found - 255 * np.array(back)).max() <= 0.501


def test_linear_cuts_and_rounds_down():
    found = photometric.linear(tf.constant([0.0, 9, 100, 200, 255]), 1.25, -10.0)
    np.testing.assert_array_equal(found, np.clip(np.array([0, 9, 100, 200, 255]) * 1.25 - 10, 0, 255).astype(np.uint8))


def test_neutral_changes(picture):
    image = tf.constant(picture(1, 10, 10), tf.float32)
    same = photometric.from_hsv(*photometric.to_hsv(image))
    np.testing.assert_array_equal(photometric.scale_saturation(image, 1.0), same)
    np.testing.assert_array_equal(photometric.shift_hue(image, 0.0), same)
    np.testing.assert_array_equal(photometric.shift_hue(image, 180.0), same)
    assert np.abs(same - image).max() <= 6  # a step of hue is up to 255 / 30 levels
    grey = hsv(photometric.scale_saturation(image, 0.0))
    assert not grey[..., 1].any()


def expected_distortion(image, seed):
    """The definition, from the draws of the op; also what was changed."""
    draws = tf.random.stateless_uniform([9], tf.constant(seed, tf.int64)).numpy()
    first, (shift, contrast, saturation, hue) = draws[0] < 0.5, draws[5:]
    bright, contrasting, saturating, turning = draws[1:5] < 0.5
    image = tf.constant(image, tf.float32)
    if bright:
        image = photometric.linear(image, 1.0, 32 * (2 * shift - 1))
    if contrasting and first:
        image = photometric.linear(image, 0.5 + contrast, 0.0)
    if saturating:
        image = photometric.scale_saturation(image, 0.5 + saturation)
    steps = int(hue * 36) - 18
    if turning:
        image = photometric.shift_hue(image, float(steps))
    if contrasting and not first:
        image = photometric.linear(image, 0.5 + contrast, 0.0)
    return image.numpy(), (first, bright, contrasting, saturating, turning), steps


def test_distortion_is_the_definition(both_ways, picture):
    image = picture(2, 16, 16)
    op, changes, steps = photometric.photometric_distortion(), [], []
    assert both_ways(op, {"image": image}, [3, 0])["image"].dtype == np.uint8
    distort = tf.function(op)
    for index in range(120):
        found = distort({"image": tf.constant(image)}, tf.constant([3, index], tf.int64))["image"].numpy()
        expected, changed, step = expected_distortion(image, [3, index])
        # A graph rounds products and sums at once, and a level to either side can grow to a step of hue.
        assert np.mean(found != expected) < 0.02 and np.abs(found - expected).mean() < 0.05
        assert np.array_equal(found, image) == (not any(changed[1:]))
        changes.append(changed)
        steps.append(step)
    assert all(40 <= count <= 80 for count in np.sum(changes, axis=0))
    assert min(steps) == -18 and max(steps) == 17


def test_mistakes():
    with pytest.raises(UserError, match="photometric_distortion: expected uint8 pixels"):
        photometric.photometric_distortion()({"image": tf.zeros([4, 4, 3])}, tf.constant([0, 0], tf.int64))
