import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from beit_jax.data.decoding.label_png import decode_labels


def png(image, **settings):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **settings)
    return buffer.getvalue()


def palette(labels, colours, seed=0):
    image = Image.fromarray(labels)
    image.putpalette(np.random.default_rng(seed).integers(0, 256, 3 * colours).tolist())
    return image


def labels(classes, seed=0):
    return np.random.default_rng(seed).integers(0, classes, (13, 7), dtype=np.uint8)


def decoded(encoded):
    found = tf.data.Dataset.from_tensors(encoded).map(decode_labels).get_single_element()
    eager = decode_labels(tf.constant(encoded))
    np.testing.assert_array_equal(found[0], eager[0])
    assert bool(found[1]) == bool(eager[1])
    return found[0].numpy(), bool(found[1])


@pytest.mark.parametrize(("classes", "bits"), [(256, 8), (16, 4), (4, 2), (2, 1)])
@pytest.mark.parametrize("settings", [{}, {"transparency": 1}, {"transparency": b"\x00\xff"}])
def test_places_in_a_palette(classes, bits, settings):
    expected = labels(classes)
    encoded = png(palette(expected, classes), **settings)
    assert (encoded[24], encoded[25]) == (bits, 3)
    found, is_labels = decoded(encoded)
    assert is_labels and found.dtype == np.uint8
    np.testing.assert_array_equal(found[..., 0], expected)


def test_grey_levels():
    expected = labels(256)
    np.testing.assert_array_equal(decoded(png(Image.fromarray(expected)))[0][..., 0], expected)
    expected = labels(2)  # Pillow writes booleans as one bit
    encoded = png(Image.fromarray(expected.astype(bool)))
    assert encoded[24] == 1
    found, is_labels = decoded(encoded)
    assert is_labels
    np.testing.assert_array_equal(found[..., 0], expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_grey_levels_written_as_colours(mode):
    """As programs for drawing save them: three equal parts, and nothing transparent."""
    expected = labels(256)
    found, is_labels = decoded(png(Image.fromarray(expected).convert(mode)))
    assert is_labels
    np.testing.assert_array_equal(found[..., 0], expected)


def test_colours_are_no_labels():
    colours = labels(256)[..., None].repeat(3, 2)
    colours[3, 4, 1] ^= 1  # one channel of one pixel
    assert not decoded(png(Image.fromarray(colours)))[1]
    levels = Image.fromarray(labels(256)).convert("LA")
    levels.putpixel((2, 3), (7, 254))  # not opaque
    assert not decoded(png(levels))[1]


def test_sixteen_bits():
    expected = labels(256).astype(np.uint16)
    encoded = png(Image.fromarray(expected))
    assert encoded[24] == 16
    found, is_labels = decoded(encoded)
    assert is_labels
    np.testing.assert_array_equal(found[..., 0], expected)
    expected[5, 5] = 256
    assert not decoded(png(Image.fromarray(expected)))[1]


@pytest.mark.parametrize("encoded", [b"", b"\x89PNG", b"not a PNG file, although it is long enough to be one", None])
def test_what_is_no_png_file(encoded):
    if encoded is None:
        encoded = png(palette(labels(256), 256))[:400]
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_labels(tf.constant(encoded))


def test_other_formats_are_refused():
    # TensorFlow's decode_png takes them, with the colours that compression made of the labels.
    buffer = io.BytesIO()
    Image.fromarray(labels(256)).save(buffer, "JPEG")
    with pytest.raises(tf.errors.InvalidArgumentError, match="no PNG file"):
        decode_labels(tf.constant(buffer.getvalue()))
