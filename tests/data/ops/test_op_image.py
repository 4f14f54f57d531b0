import io

import numpy as np
import pytest
from PIL import Image

from beit_jax.data.ops import image as image_ops
from beit_jax.errors import UserError

SEED = [7, 11]


def encode(image, file_format, mode=None, **settings):
    buffer = io.BytesIO()
    Image.fromarray(image).convert(mode).save(buffer, file_format, **settings)
    return buffer.getvalue()


# Other files, and those that cannot be read, are in image_zoo.py.
@pytest.mark.parametrize(("file_format", "settings"), [("BMP", {}), ("JPEG", {"quality": 90})])
def test_decode_equals_pillow(both_ways, picture, file_format, settings):
    encoded = encode(picture(0, 33, 41), file_format, **settings)
    found = both_ways(image_ops.decode(), {"image": encoded}, SEED)
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), int)
    assert not found["_fault"]
    assert np.abs(found["image"].astype(int) - expected).max() <= (1 if file_format == "JPEG" else 0)


def test_other_kinds_of_bmp_files(traced, picture):
    decode = traced(image_ops.decode())
    for mode in ("L", "P", "RGBA"):
        encoded = encode(picture(0, 33, 41), "BMP", mode)
        found = decode({"image": encoded}, SEED)
        assert not found["_fault"]
        np.testing.assert_array_equal(found["image"], Image.open(io.BytesIO(encoded)).convert("RGB"))


def test_a_small_palette_and_an_index_outside_of_it(both_ways):
    image = Image.new("P", (4, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2, 1])
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    whole = buffer.getvalue()
    found = both_ways(image_ops.decode(), {"image": whole}, SEED)["image"]
    np.testing.assert_array_equal(found, [[[10, 20, 30], [40, 50, 60], [70, 80, 90], [40, 50, 60]]])
    broken = whole[:-1] + b"\xff"
    assert both_ways(image_ops.decode(), {"image": broken}, SEED)["_fault"]


def test_flip_lr(both_ways, traced, picture):
    image = picture(0, 6, 9)
    np.testing.assert_array_equal(both_ways(image_ops.flip_lr(1.0), {"image": image}, SEED)["image"], image[:, ::-1])
    np.testing.assert_array_equal(both_ways(image_ops.flip_lr(0.0), {"image": image}, SEED)["image"], image)
    flip = traced(image_ops.flip_lr())
    results = [flip({"image": image}, [0, index])["image"] for index in range(60)]
    assert 18 <= sum(np.array_equal(result, image) for result in results) <= 42


@pytest.mark.parametrize(
    ("arguments", "mean", "std"),
    [
        ((), 0.5, 0.5),
        (("imagenet",), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ((0.25, (1.0, 2.0, 3.0)), 0.25, [1, 2, 3]),
    ],
)
def test_normalize(both_ways, picture, arguments, mean, std):
    image = picture(0, 6, 9)
    found = both_ways(image_ops.normalize(*arguments), {"image": image, "tokenizer_image": image}, SEED)
    np.testing.assert_allclose(found["image"], (image / 255 - mean) / std, atol=1e-5)
    np.testing.assert_array_equal(found["tokenizer_image"], image)


def test_map_pixels(both_ways):
    levels = np.array([[[0, 128, 255]]], np.uint8)
    found = both_ways(image_ops.map_pixels(), {"image": levels, "tokenizer_image": levels}, SEED)
    np.testing.assert_allclose(found["tokenizer_image"], [[[0.1, 0.8 * 128 / 255 + 0.1, 0.9]]], atol=1e-6)
    np.testing.assert_array_equal(found["image"], levels)


def test_keep(both_ways):
    found = both_ways(image_ops.keep("label"), {"image": [1], "label": 2, "_id": "a"}, SEED)
    assert set(found) == {"label", "_id"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: image_ops.flip_lr(2), "probability 2"),
        (lambda: image_ops.normalize("coco"), "expected inception or imagenet"),
        (lambda: image_ops.normalize(0.5), "without a std"),
        (lambda: image_ops.normalize(0.5, 0.0), "std above 0"),
        (lambda: image_ops.normalize((0.5, 0.5), 0.5)({"image": np.zeros((2, 2, 3), np.float32)}, None), "2 channels"),
        (lambda: image_ops.keep(), "found no names"),
        (lambda: image_ops.keep("mask")({"image": 0}, None), "there is no 'mask'; the features are image"),
        (lambda: image_ops.map_pixels()({"image": 0}, None), "there is no 'tokenizer_image'"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(UserError, match=message):
        call()
