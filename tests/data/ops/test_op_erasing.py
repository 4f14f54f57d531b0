import numpy as np
import pytest
import tensorflow as tf

from beit_jax.data import preprocessing
from beit_jax.data.ops.erasing import rectangle
from beit_jax.errors import UserError

SPEC = "normalize|random_erasing({})"


@pytest.fixture(scope="module")
def erase():
    def make(arguments, shape=(40, 60, 3)):
        program = preprocessing.build_program(SPEC.format(arguments))
        image = tf.zeros(shape, tf.uint8)

        @tf.function
        def run(seed):
            return program.example({"image": image}, seed)["image"]

        return lambda seed: run(tf.constant([7, seed], tf.int64)).numpy()

    return make


def test_a_fraction_of_the_images_is_erased_by_noise(erase):
    run = erase("")
    changed = [(image != -1.0).any(-1) for image in map(run, range(400))]
    fraction = np.mean([mask.any() for mask in changed])
    assert abs(fraction - 0.25) < 0.06
    for mask in filter(np.any, changed):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert mask.sum() == len(rows) * len(columns)


def test_noise_is_normal_and_of_its_own_for_each_image(erase):
    run = erase("1.0")
    first, second = run(0), run(1)
    values = np.concatenate([image[image != -1.0] for image in map(run, range(60))])
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02
    assert not np.array_equal(first, second) and np.array_equal(first, run(0))


def test_areas_and_aspect_ratios_as_defined():
    """Against the definition written out in NumPy, draw for draw."""
    draws = np.random.default_rng(0).random((500, 4, 10), np.float32)
    run = tf.function(lambda one: rectangle(one, 50, 80, (0.02, 1 / 3), 0.3))
    areas = []
    for one in draws:
        mask = run(one).numpy()
        for area, ratio, top, left in one.T:
            target = (0.02 + (1 / 3 - 0.02) * area) * 50 * 80
            aspect = np.exp(np.log(0.3) + ratio * (np.log(1 / 0.3) - np.log(0.3)))
            height, width = round(np.sqrt(target * aspect)), round(np.sqrt(target / aspect))
            if height < 50 and width < 80:
                expected = np.zeros((50, 80), bool)
                y, x = int(top * (50 - height + 1)), int(left * (80 - width + 1))
                expected[y : y + height, x : x + width] = True
                break
        np.testing.assert_array_equal(mask, expected)
        areas.append(mask.mean())
    assert 0.015 < min(areas) < 0.03 and 0.3 < max(areas) < 0.345


def test_wrong_uses():
    with pytest.raises(UserError, match="expected a probability"):
        preprocessing.build_program("random_erasing(2.0)")
    with pytest.raises(UserError, match="put it after normalize"):
        preprocessing.build_program("random_erasing(1.0)").example(
            {"image": tf.zeros([4, 4, 3], tf.uint8)}, tf.zeros([2], tf.int64)
        )
