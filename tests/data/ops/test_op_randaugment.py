"""Every operation against Pillow, at several levels; and how they are drawn."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from beit_jax.data import preprocessing
from beit_jax.data.ops import randaugment
from beit_jax.errors import UserError

FILL = (128, 128, 128)
BICUBIC = Image.Resampling.BICUBIC


def picture(height=37, width=52):
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 5 + i) + np.cos(y / (4 + i)) + 2 * ((x // 13 + y // 9) % 2) for i in range(3)]
    pixels = np.stack(waves, axis=-1)
    noise = np.random.default_rng(0).integers(-9, 10, pixels.shape)
    levels = 30 + 190 * (pixels - pixels.min()) / np.ptp(pixels) + noise
    return levels.clip(0, 255).astype(np.uint8)


def affine(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, BICUBIC, fillcolor=FILL)


def solarize_add(image, add):
    table = [min(255, i + add) if i < 128 else i for i in range(256)]
    return image.point(table * 3)


# What timm calls, with its arguments of a level m of 10 and a sign s.
PILLOW = {
    "autocontrast": lambda image, m, s: ImageOps.autocontrast(image),
    "equalize": lambda image, m, s: ImageOps.equalize(image),
    "invert": lambda image, m, s: ImageOps.invert(image),
    "rotate": lambda image, m, s: image.rotate(s * 30 * m / 10, BICUBIC, fillcolor=FILL),
    "posterize": lambda image, m, s: image.point([i & ~(2 ** (4 + int(4 * m / 10)) - 1) for i in range(256)] * 3),
    "solarize": lambda image, m, s: ImageOps.solarize(image, 256 - int(256 * m / 10)),
    "solarize_add": lambda image, m, s: solarize_add(image, int(110 * m / 10)),
    "color": lambda image, m, s: ImageEnhance.Color(image).enhance(1 + s * 0.9 * m / 10),
    "contrast": lambda image, m, s: ImageEnhance.Contrast(image).enhance(1 + s * 0.9 * m / 10),
    "brightness": lambda image, m, s: ImageEnhance.Brightness(image).enhance(1 + s * 0.9 * m / 10),
    "sharpness": lambda image, m, s: ImageEnhance.Sharpness(image).enhance(1 + s * 0.9 * m / 10),
    "shear_x": lambda image, m, s: affine(image, 1, s * 0.3 * m / 10, 0, 0, 1, 0),
    "shear_y": lambda image, m, s: affine(image, 1, 0, 0, s * 0.3 * m / 10, 1, 0),
    "translate_x": lambda image, m, s: affine(image, 1, 0, s * 0.45 * m / 10 * image.size[0], 0, 1, 0),
    "translate_y": lambda image, m, s: affine(image, 1, 0, 0, 0, 1, s * 0.45 * m / 10 * image.size[1]),
}
WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def test_all_fifteen_are_compared():
    assert list(PILLOW) == list(randaugment.AUGMENTATIONS) and len(PILLOW) == 15


@pytest.mark.parametrize("name", PILLOW)
def test_as_pillow(name):
    run = tf.function(randaugment.AUGMENTATIONS[name])
    pixels = picture()
    for level in (0.0, 3.7, 9.0, 10.0):
        for sign in (-1.0, 1.0):
            ours = run(tf.constant(pixels, tf.float32), tf.constant(level / 10), tf.constant(sign)).numpy()
            ours = np.where(ours == randaugment.OUTSIDE, FILL[0], ours)
            theirs = np.asarray(PILLOW[name](Image.fromarray(pixels), level, sign), np.float32)
            assert np.array_equal(ours, np.floor(ours)) and ours.min() >= 0 and ours.max() <= 255
            difference = np.abs(ours - theirs)
            # A source exactly on the border can fall on either side of it in float32: few pixels of a warp.
            bad = (difference > 1).mean()
            assert bad <= (0.004 if name in WARPS else 0), (level, sign, bad, difference.max())
            assert difference[difference <= 1].mean() < 0.1


def test_uniform_images_survive():
    flat = tf.fill([5, 6, 3], 77.0)
    for name in ("autocontrast", "equalize"):
        np.testing.assert_array_equal(randaugment.AUGMENTATIONS[name](flat, 0.9, 1.0), flat)


@pytest.fixture(scope="module")
def augment():
    def make(arguments):
        program = preprocessing.build_program(f"randaugment({arguments})")
        image = tf.constant(picture())

        @tf.function
        def run(seed):
            return program.example({"image": image}, seed)["image"]

        return lambda seed: run(tf.constant([3, seed], tf.int64)).numpy()

    return make


@pytest.mark.parametrize(("statistics", "fill"), [("inception", (128, 128, 128)), ("imagenet", (124, 116, 104))])
def test_pixels_from_outside_of_the_image_have_the_mean_colour(augment, monkeypatch, statistics, fill):
    some = {name: randaugment.AUGMENTATIONS[name] for name in ("translate_x", "invert", "rotate")}
    monkeypatch.setattr(randaugment, "AUGMENTATIONS", some)
    run = augment(f"1, 10.0, 0.0, 1.0, statistics={statistics!r}")
    corners = np.stack([run(seed)[[0, 0, -1, -1], [0, -1, 0, -1]] for seed in range(60)])
    filled = (corners == np.array(fill)).all(axis=-1).any(axis=1)
    assert 25 < filled.sum() < 55  # two of the three move an image


def test_half_of_two_operations(augment, monkeypatch):
    """With two draws of probability one half, a quarter of the images stays as it is."""
    some = {name: randaugment.AUGMENTATIONS[name] for name in ("translate_x", "solarize_add", "rotate")}
    monkeypatch.setattr(randaugment, "AUGMENTATIONS", some)
    run = augment("")
    results = [run(seed) for seed in range(400)]
    assert results[0].dtype == np.uint8 and np.array_equal(results[0], run(0))
    untouched = np.mean([np.array_equal(result, picture()) for result in results])
    assert abs(untouched - 0.25) < 0.07


def test_every_operation_is_drawn_equally(augment, monkeypatch):
    def marked(number):
        return lambda image, strength, sign: tf.fill(tf.shape(image), float(number))

    monkeypatch.setattr(randaugment, "AUGMENTATIONS", {str(i): marked(i) for i in range(15)})
    run = augment("1, 9.0, 0.5, 1.0")
    counts = np.bincount([run(seed)[0, 0, 0] for seed in range(1500)], minlength=15)
    assert counts.min() > 60 and counts.max() < 145


def test_magnitudes_and_signs(augment, monkeypatch):
    def as_level(image, strength, sign):
        return tf.fill(tf.shape(image), 100.0 * strength + tf.where(sign > 0, 100.0, 0.0))

    monkeypatch.setattr(randaugment, "AUGMENTATIONS", {"as_level": as_level})
    run = augment("1, 9.0, 0.5, 1.0")
    values = np.array([float(run(seed)[0, 0, 0]) for seed in range(1000)])
    positive = values > 100.5
    strengths = values - 100 * positive
    assert abs(positive.mean() - 0.5) < 0.06
    assert abs(strengths.mean() + 0.5 - 90) < 0.7 and abs(strengths.std() - 5) < 0.7 and strengths.max() <= 100


def test_wrong_uses():
    with pytest.raises(UserError, match="a level from 0 to 10"):
        preprocessing.build_program("randaugment(2, 11.0)")
    with pytest.raises(UserError, match="put it before normalize"):
        preprocessing.build_program("randaugment()").example({"image": tf.zeros([4, 4, 3])}, tf.zeros([2], tf.int64))


def test_smoothing_keeps_the_border():
    pixels = picture()
    smooth = np.asarray(Image.fromarray(pixels).filter(ImageFilter.SMOOTH), np.float32)
    ours = randaugment.sharpness(tf.constant(pixels, tf.float32), tf.constant(0.0)).numpy()
    assert np.abs(ours - smooth).max() <= 1
    np.testing.assert_array_equal(ours[0], pixels[0])
