"""EXIF orientations: pixels and crops are those of `PIL.ImageOps.exif_transpose`."""

import io

import numpy as np
import pytest
import tensorflow as tf
from image_zoo import encode, exif, picture
from PIL import Image, ImageOps

from beit_jax.convert.picture import to_rgb
from beit_jax.data.decoding import orientation
from beit_jax.data.ops import crop, crop_box
from beit_jax.data.ops import image as image_ops

SEED = tf.constant([5, 1], tf.int64)
EIGHT = range(1, 9)


def by_pillow(content, turned=True):
    image = Image.open(io.BytesIO(content))
    return np.asarray((ImageOps.exif_transpose(image) if turned else image).convert("RGB"), int)


@pytest.fixture(scope="module")
def traced():
    """Runs an op on features, traced once for each op."""
    cache = {}

    def run(op, *arguments, **features):
        if (op, arguments) not in cache:
            cache[op, arguments] = tf.function(op(*arguments), autograph=False)
        seed = features.pop("seed", SEED)
        found = cache[op, arguments]({key: tf.constant(value) for key, value in features.items()}, seed)
        return {key: value.numpy() for key, value in found.items()}

    return run


@pytest.mark.parametrize("value", EIGHT)
@pytest.mark.parametrize("big_endian", [False, True])
def test_images_are_turned(traced, value, big_endian):
    """A JPEG within the level of its decoder, as without EXIF data, a PNG and a WebP file exactly."""
    data = exif(value, big_endian, size=5000 if big_endian else 0)
    for file_format, settings in (("JPEG", {}), ("JPEG", {"icc_profile": b"Exif\1" * 900}), ("PNG", {}), ("WEBP", {})):
        content = encode(picture(0), file_format, exif=data, **settings)
        tolerance = 1 if file_format == "JPEG" else 0
        found = traced(image_ops.decode, image=content)["image"]
        assert found.shape == ((24, 32, 3) if value < 5 else (32, 24, 3))
        assert np.abs(found - by_pillow(content)).max() <= tolerance
        stored = traced(image_ops.decode, 255, False, image=content)["image"]
        assert np.abs(stored - by_pillow(content, turned=False)).max() <= tolerance
        np.testing.assert_array_equal(to_rgb(Image.open(io.BytesIO(content))), by_pillow(content))
        np.testing.assert_array_equal(
            to_rgb(Image.open(io.BytesIO(content)), exif_transpose=False), by_pillow(content, turned=False)
        )


@pytest.mark.parametrize("value", EIGHT)
def test_a_view_is_the_crop_of_the_turned_image(traced, picture, value):
    """To the level: `decode_view`, which decodes a part of the file, and `decode` with the first of the two views."""
    content = encode(picture(1, 97, 131), "JPEG", quality=90, exif=exif(value))
    for index in range(3):
        seed = tf.constant([9, index], tf.int64)
        whole = traced(image_ops.decode, image=content)["image"]
        assert whole.shape == ((97, 131, 3) if value < 5 else (131, 97, 3))
        expected = traced(crop.two_views, 24, 12, image=whole, seed=seed)["image"]
        np.testing.assert_array_equal(traced(crop.decode_view, 24, image=content, seed=seed)["image"], expected)
        whole = traced(image_ops.decode, 255, False, image=content)["image"]
        expected = traced(crop.two_views, 24, 12, image=whole, seed=seed)["image"]
        found = traced(crop.decode_view, 24, 0.08, 1.0, 255, False, image=content, seed=seed)["image"]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", EIGHT)
def test_boxes_of_turned_images(value):
    stored = np.arange(5 * 7 * 1).reshape(5, 7, 1)
    seen = orientation.turn(tf.constant(stored), tf.constant(value)).numpy()
    box = tf.constant([1, 2, 2, 3])
    inner = orientation.stored_box(box, tf.constant([5, 7]), tf.constant(value))
    part = orientation.turn(crop_box.crop(tf.constant(stored), inner), tf.constant(value))
    np.testing.assert_array_equal(part, seen[1:3, 2:5])


def test_damaged_exif_data_is_ignored(traced):
    good = exif(6)
    place = good.index(b"\x12\x01")
    damaged = [
        b"", b"Exif\0\0", b"Exif\0\0II*\0", good[:-20], good.replace(b"II", b"IM"),
        good[:10] + b"\xff\xff\xff\xff" + good[14:], good[:14] + b"\xff\xff" + good[16:30],
        good[: place + 8] + b"\x09" + good[place + 9 :], good[: place + 8] + b"\0" + good[place + 9 :],
    ]  # fmt: skip
    for data in damaged:
        jpeg = encode(picture(0), "JPEG", exif=data or good)
        if not data:
            jpeg = jpeg.replace(b"\xff\xe1", b"\xff\xe5")  # EXIF data in a segment of another kind
        for content in (jpeg, encode(picture(0), "WEBP", exif=data)):
            assert traced(image_ops.decode, image=content)["image"].shape == (24, 32, 3)
            assert to_rgb(Image.open(io.BytesIO(content))).size == (32, 24)
    for content in (
        b"",
        b"\xff\xd8\xff",
        b"\xff\xd8\xffExif\0\0",
        b"\x89PNG",
        b"\x89PNGeXIf",
        b"RIFFEXIF",
        b"RIFFEXIF12",
    ):
        assert orientation.read_orientation(tf.constant(content)) == 1


@pytest.mark.parametrize(
    ("value", "drawn_on", "turned"),
    [
        (6, (32, 24), True),  # height and width of the label map, which belongs to the turned image
        (6, (24, 32), False),  # to the stored one
        (3, (24, 32), True),  # it may belong to both: to what viewers show
        (1, (24, 32), False),
    ],
)
def test_a_label_map_tells_whether_its_image_is_turned(traced, value, drawn_on, turned):
    content = encode(picture(0), "JPEG", exif=exif(value))
    labels = np.arange(24 * 32, dtype=np.uint8).reshape(drawn_on)
    found = traced(image_ops.decode, image=content, label_map=encode(labels, "PNG"))
    np.testing.assert_array_equal(found["label_map"][..., 0], labels)
    expected = by_pillow(content, turned)
    assert found["image"].shape == expected.shape and np.abs(found["image"] - expected).max() <= 1
    stored = traced(image_ops.decode, 255, False, image=content, label_map=encode(labels.reshape(24, 32), "PNG"))
    assert np.abs(stored["image"] - by_pillow(content, turned=False)).max() <= 1


def test_a_label_map_of_neither_size_is_refused(traced):
    content = encode(picture(0), "JPEG", exif=exif(6))
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected the same: repair or remove the pair"):
        traced(image_ops.decode, image=content, label_map=encode(np.zeros((20, 32), np.uint8), "PNG"))


def test_xmp_alone_turns_nothing(traced):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    content = encode(picture(0), "JPEG", xmp=xmp)
    assert traced(image_ops.decode, image=content)["image"].shape == (24, 32, 3)
