"""The input decodes with TensorFlow, `preprocess` and `visualize` with Pillow: they see the same picture."""

import io
import struct
import warnings

import image_zoo
import numpy as np
import pytest
import tensorflow as tf
from image_zoo import encode, exif, picture
from PIL import Image

from beit_jax.config.op_sizes import short_side
from beit_jax.convert import preprocessing
from beit_jax.convert.picture import resize, to_rgb
from beit_jax.data.features import FAULT
from beit_jax.data.ops import image as image_ops
from beit_jax.data.preprocessing import build_program
from beit_jax.visualize.images import read_picture

DECODINGS = [(255, True), (None, False), ((10, 200, 90), True)]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
ROUNDED = 1  # levels by which two ways to mix the four inks of a JPEG file differ


def files() -> dict[str, bytes]:
    random = np.random.default_rng(3)
    colours = Image.fromarray(np.dstack([picture(0), picture(1)[..., :1]]))
    inks = Image.fromarray(random.integers(0, 256, (24, 32, 4), dtype=np.uint8), "CMYK")
    turned = {
        f"orientation {number}, {kind}": encode(picture(0), kind, exif=exif(number, big_endian=number % 2 == 0))
        for number in range(1, 9)
        for kind in ("JPEG", "PNG", "WEBP")
    }
    more = {
        "inks": encode(inks, "JPEG"),
        "orientation in XMP": encode(picture(0), "JPEG", xmp=XMP),
        "progressive": encode(picture(0)[:23, :31], "JPEG", progressive=True, quality=70),
        "all colours": encode(picture(0), "JPEG", subsampling=0),
        "interlaced.gif": encode(Image.fromarray(picture(0)).convert("P"), "GIF", interlace=1),
        "interlaced.png": image_zoo.interlaced_png(picture(0)),
        "grey.bmp": encode(picture(0), "BMP", "L"),
        "palette.bmp": encode(picture(0), "BMP", "P"),
        "alpha.bmp": encode(colours, "BMP"),
        "alpha.webp": encode(colours, "WEBP", quality=60),
        "gamma.png": image_zoo.png(
            32, 24, image_zoo.png_rows(picture(0).reshape(24, -1), 8), 8, 2, {b"gAMA": b"\0\1\2\3"}
        ),
    }
    return turned | more | image_zoo.png_kinds() | {name: content for name, (content, _) in image_zoo.odd().items()}


@pytest.mark.parametrize(("background", "exif_transpose"), DECODINGS)
def test_decoders_agree(background, exif_transpose):
    decode = tf.function(image_ops.decode(background, exif_transpose))
    different = {}
    for name, content in files().items():
        found = decode({"image": tf.constant(content)}, tf.constant([0, 0], tf.int64))
        assert found[FAULT].numpy() == b"", name
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Palette images with Transparency")
            expected = np.asarray(to_rgb(Image.open(io.BytesIO(content)), background, exif_transpose), int)
        assert found["image"].shape == expected.shape, name
        difference = np.abs(found["image"].numpy() - expected).max()
        if difference > (ROUNDED if name == "inks" else 0):
            different[name] = difference
    assert not different


def test_transparent_levels_have_the_bits_of_the_file():
    levels = np.array([[0, 1, 2, 3]])
    content = image_zoo.png(4, 1, image_zoo.png_rows(levels, 2), 2, 0, {b"tRNS": struct.pack(">H", 2)})
    red = to_rgb(Image.open(io.BytesIO(content)), (255, 0, 0))
    assert np.asarray(red)[0].tolist() == [[0] * 3, [85] * 3, [255, 0, 0], [255] * 3]


def test_visualize_reads_as_the_model_does(tmp_path):
    path = tmp_path / "turned.png"
    path.write_bytes(encode(Image.fromarray(np.full((4, 6, 4), (9, 9, 9, 0), np.uint8)), "PNG", exif=exif(6)))
    section = preprocessing.preprocess_section(4, background=None, exif_transpose=False)
    stored, seen = read_picture(str(path), section), read_picture(str(path))
    assert stored.size == (6, 4) and stored.getpixel((0, 0)) == (9, 9, 9)
    assert seen.size == (4, 6) and seen.getpixel((0, 0)) == (255, 255, 255)


SHAPES = [(61, 80), (80, 61), (45, 45), (20, 177), (7, 900), (900, 7), (3, 500), (1, 2500), (8000, 1), (2, 9)]


@pytest.mark.parametrize("size", [192, 224, 384])
def test_evaluation_and_preprocess_agree(size):
    section = preprocessing.official_section(size)
    program = tf.function(build_program(f"{preprocessing.resized_ops(section)}|normalize").example)
    for shape in SHAPES:
        image = Image.fromarray(picture(4)).resize(shape[::-1], Image.BICUBIC)
        features = {"image": tf.constant(encode(image, "PNG"))}
        found = program(features, tf.constant([0, 0], tf.int64))["image"].numpy()
        levels = np.abs(found - preprocessing.preprocess([image], section)[0]) * 127.5
        assert levels.max() < 2.5, shape  # two passes that round differently
        assert np.mean(levels > 0.5) < 0.1, shape


@pytest.mark.parametrize("shape", [(5, 2000), (2000, 5), (11, 311)])
@pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos"])
def test_the_middle_of_a_long_image_is_that_of_the_whole(shape, method):
    section = preprocessing.preprocess_section(28, method, 32)
    image = Image.fromarray(picture(5)).resize(shape[::-1], Image.BICUBIC)
    width, height = (32 * side // min(image.size) for side in image.size)
    left, top = round((width - 28) / 2), round((height - 28) / 2)
    whole = image.resize((width, image.height), image_filter(method)).resize((width, height), image_filter(method))
    expected = np.asarray(whole.crop((left, top, left + 28, top + 28)), int)
    program = build_program(preprocessing.resized_ops(section)).example
    found = program({"image": tf.constant(encode(image, "PNG"))}, tf.constant([0, 0], tf.int64))["image"].numpy()
    prepared = (preprocessing.preprocess([image], section)[0] + 1) * 127.5
    for pixels in (found, prepared):
        assert np.abs(pixels - expected).max() <= 2.01
        assert np.mean(np.abs(pixels - expected) > 0.5) < 0.06


def image_filter(method: str) -> Image.Resampling:
    return Image.Resampling[method.upper()]


# Sharp edges, 7 x 4 -> 2 x 3 pixels, by Pillow 9.5 and 12; Pillow 13 alone begins with the rows.
EDGES = [[0, 255, 255, 0], [255, 0, 0, 255], [0, 0, 255, 0]] + [[255, 255, 0, 0]] * 4
GOLDEN = {
    "bilinear": [[129, 116, 89], [237, 128, 5]],
    "bicubic": [[122, 121, 94], [246, 127, 1]],
    "lanczos": [[121, 124, 96], [247, 125, 0]],
}


@pytest.mark.parametrize(("method", "expected"), GOLDEN.items())
def test_pixels_do_not_depend_on_the_version_of_pillow(method, expected):
    image = Image.fromarray(np.array(EDGES, np.uint8))
    assert np.asarray(resize(image, (3, 2), image_filter(method))).tolist() == expected


SIZES = {192: 219, 200: 228, 208: 237, 224: 256, 240: 274, 256: 292, 288: 329, 384: 384, 512: 512}


@pytest.mark.parametrize(("size", "resized"), SIZES.items())
def test_official_resizing(size, resized):
    """`int(size / 0.875)`, and from 384 on the size itself."""
    assert short_side(size) == resized
    assert preprocessing.official_section(size).resize == resized
    views = preprocessing.from_ops("decode|two_views_center(16, 8)|normalize('inception')", size)
    assert views.resize == int(size / 0.875)


def test_resizing_survives_other_formats():
    """timm rounds `size / crop_pct` down, so that the exact quotient may become one pixel less."""
    for size in (32, 40, 192, 224, 288, 384):
        for resized in range(size, 2 * size):
            section = preprocessing.preprocess_section(size, resize=resized)
            assert preprocessing.from_timm(preprocessing.to_timm(section, 3), size).resize == resized
            fraction = preprocessing.crop_fraction(size, resized)
            assert preprocessing.from_ops(f"two_views_center({size}, 8, {fraction})", size).resize == resized
