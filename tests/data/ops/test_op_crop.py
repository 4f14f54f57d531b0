import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from beit_jax.convert.picture import resize
from beit_jax.data import preprocessing
from beit_jax.data.ops import crop, crop_box
from beit_jax.errors import UserError

SEED = [7, 11]


def close(found, expected):
    return np.abs(found.astype(int) - np.asarray(expected, int)).max() <= 2


def test_resize(both_ways, picture):
    image = picture(1, 40, 30)
    found = both_ways(crop.resize(16), {"image": image}, SEED)["image"]
    assert close(found, resize(Image.fromarray(image), (16, 16), Image.BICUBIC))


@pytest.mark.parametrize(("size", "expected"), [((40, 30), (21, 16)), ((30, 47), (16, 25)), ((16, 16), (16, 16))])
def test_resize_small(both_ways, picture, size, expected):
    image = picture(2, *size)
    found = both_ways(crop.resize_small(16), {"image": image}, SEED)["image"]
    assert found.shape[:2] == expected
    assert close(found, resize(Image.fromarray(image), expected[::-1], Image.BICUBIC))


@pytest.mark.parametrize(("size", "corner"), [((10, 10), (1, 1)), ((11, 13), (2, 2)), ((8, 9), (0, 0))])
def test_central_crop(both_ways, picture, size, corner):
    # torchvision: the corner is the rounded half of what is cut off, halves to even.
    image = picture(3, *size)
    found = both_ways(crop.central_crop(8), {"image": image}, SEED)["image"]
    np.testing.assert_array_equal(found, image[corner[0] : corner[0] + 8, corner[1] : corner[1] + 8])


def test_random_resized_crop(both_ways, picture):
    image = picture(4, 50, 40)
    found = both_ways(crop.random_resized_crop(12, 0.2, 0.9), {"image": image}, SEED)["image"]
    seed = tf.constant(SEED, tf.int64)
    top, left, height, width = crop_box.random_box(seed, tf.constant(image), (0.2, 0.9)).numpy().tolist()
    cropped = Image.fromarray(image).crop((left, top, left + width, top + height))
    assert close(found, resize(cropped, (12, 12), Image.BICUBIC))


@pytest.mark.parametrize(("method", "other"), [("lanczos", "bicubic"), ("bicubic", "lanczos")])
def test_two_views_have_one_box(both_ways, picture, method, other):
    image = picture(5, 50, 70)
    settings = {} if method == "lanczos" else {"tokenizer_method": method}
    found = both_ways(crop.two_views(24, 12, **settings), {"image": image, "label": 3}, SEED)
    top, left, height, width = (
        crop_box.random_box(tf.constant(SEED, tf.int64), tf.constant(image), (0.08, 1.0)).numpy().tolist()
    )
    cropped = Image.fromarray(image).crop((left, top, left + width, top + height))
    assert close(found["image"], resize(cropped, (24, 24), Image.BICUBIC))
    filters = {"lanczos": Image.LANCZOS, "bicubic": Image.BICUBIC}
    assert close(found["tokenizer_image"], resize(cropped, (12, 12), filters[method]))
    assert not close(found["tokenizer_image"], resize(cropped, (12, 12), filters[other]))
    assert found["label"] == 3


def test_two_views_center(both_ways, picture):
    image = picture(6, 40, 64)
    found = both_ways(crop.two_views_center(24, 12, 0.5), {"image": image}, SEED)
    cropped = Image.fromarray(image[10:30, 22:42])
    assert close(found["image"], resize(cropped, (24, 24), Image.BICUBIC))
    assert close(found["tokenizer_image"], resize(cropped, (12, 12), Image.LANCZOS))
    found = both_ways(crop.two_views_center(24, 12, 0.5, "bicubic"), {"image": image}, SEED)
    assert close(found["tokenizer_image"], resize(cropped, (12, 12), Image.BICUBIC))
    with pytest.raises(UserError, match="found the resize method 'cubic'"):
        crop.two_views_center(24, 12, 0.5, "cubic")


def test_official_evaluation_of_a_classifier(both_ways, picture):
    # Shorter side to 256/224 of the input, bicubic, then the centre.
    image = picture(7, 61, 80)
    small = both_ways(crop.resize_small(32), {"image": image}, SEED)
    found = both_ways(crop.central_crop(28), small, SEED)["image"]
    resized = np.asarray(resize(Image.fromarray(image), (41, 32), Image.BICUBIC))
    assert close(found, resized[2:30, 6:34])  # 13 / 2 = 6.5 rounds to 6


@pytest.mark.parametrize("name", ["resize", "resize_small", "central_crop", "random_resized_crop"])
def test_sizes_are_checked(name):
    with pytest.raises(UserError, match=f"{name}: found the size 0; expected a whole number of pixels"):
        getattr(crop, name)(0)


def test_fraction_is_checked():
    with pytest.raises(UserError, match="found the fraction 0"):
        crop.two_views_center(8, 8, 0)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (8, 1200), (1200, 8), (1, 30_000)])
@pytest.mark.parametrize(
    "spec", ["resize(16)", "random_resized_crop(16)", "two_views(16, 8)", "resize_small(20)|central_crop(16)"]
)
def test_extreme_shapes(shape, spec):
    """Of a long image `resize_small` keeps the middle, which `central_crop` shows."""
    middle = [slice(side // 2 - 50, side // 2 + 50) if side > 100 else slice(None) for side in shape]
    levels = np.zeros((*shape, 3), np.uint8)
    levels[tuple(middle)] = 200
    features = {"image": tf.constant(levels)}
    found = preprocessing.build_program(spec).example(features, tf.constant([0, 0], tf.int64))["image"].numpy()
    assert found.shape == (16, 16, 3)
    if "central" in spec:
        assert (found == 200).all()
