"""Transparent files of every kind: the levels are those of Pillow's `alpha_composite`, without a tolerance."""

import io
import struct
import zlib

import image_zoo
import numpy as np
import pytest
import tensorflow as tf
from image_zoo import as_seen, encode, picture
from PIL import Image

from beit_jax.convert.picture import to_rgb
from beit_jax.data.decoding.transparency import has_alpha, lay_on
from beit_jax.data.ops import crop
from beit_jax.data.ops import image as image_ops
from beit_jax.errors import UserError

COLOUR = (10, 200, 90)


def with_chunk(content: bytes, name: bytes, data: bytes) -> bytes:
    """A PNG file with one more chunk in front of its pixels."""
    place = content.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content[:place] + chunk + content[place:]


def rgba() -> Image.Image:
    """32 x 24 pixels, some of which are opaque, invisible, or in between."""
    alpha = np.random.default_rng(1).choice([0, 0, 1, 77, 128, 254, 255, 255], (24, 32, 1)).astype(np.uint8)
    return Image.fromarray(np.dstack([picture(0), alpha]))


def files() -> dict[str, bytes]:
    colours, grey, grey_levels = rgba(), rgba().convert("LA"), Image.fromarray(picture(2)).convert("L")
    few = Image.fromarray(picture(2)).quantize(6)  # colours
    key = picture(2)[3, 4].tolist()
    return {
        "RGBA.png": encode(colours, "PNG"),
        "LA.png": encode(grey, "PNG"),
        "palette with alphas.png": encode(few, "PNG", transparency=bytes([0, 40, 255, 130])),
        "palette with an index.png": encode(few, "PNG", transparency=2),
        "colour key.png": encode(picture(2), "PNG", transparency=tuple(key)),
        "grey key.png": encode(grey_levels, "PNG", transparency=grey_levels.getpixel((4, 3))),
        "palette of 2 bits.png": encode(Image.fromarray(picture(2)).quantize(4), "PNG", bits=2, transparency=1),
        "first index.gif": encode(few, "GIF", transparency=0),
        "last index.gif": encode(few, "GIF", transparency=5),
        "with a comment.gif": encode(few, "GIF", transparency=2, comment=b"!\xf9\x04\x01\0\0\x03\0," * 90),
        "animated.gif": encode(few, "GIF", transparency=2, save_all=True, append_images=[few.rotate(90)], loop=0),
        "from RGBA.gif": encode(colours, "GIF"),
        "lossy.webp": encode(colours, "WEBP"),
        "lossless.webp": encode(colours, "WEBP", lossless=True, exact=True),
        "masks.bmp": bmp_with_masks(np.asarray(colours), [2, 1, 0, 3]),
        "other masks.bmp": bmp_with_masks(np.asarray(colours), [3, 2, 1, 0]),
        "fourth byte unused.bmp": encode(colours, "BMP"),
    }


def bmp_with_masks(pixels: np.ndarray, byte_of_channel: list[int]) -> bytes:
    """A BMP file of 32 bits that tells in which byte of a pixel each channel is."""
    height, width, _ = pixels.shape
    stored = np.empty_like(pixels)
    stored[..., byte_of_channel] = pixels
    masks = [0xFF << 8 * byte for byte in byte_of_channel]
    header = struct.pack("<IiiHHIIIIII", 108, width, height, 1, 32, 3, 0, 0, 0, 0, 0) + struct.pack("<4I", *masks)
    header += bytes(108 - len(header))
    data = stored[::-1].tobytes()
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(data), 0, 0, 14 + len(header)) + header + data


FILES = files()


@pytest.fixture(scope="module")
def decode():
    """Runs the op on a file with a background, traced once for each."""
    traced = {}

    def run(content, background=255):
        if background not in traced:
            traced[background] = tf.function(image_ops.decode(background), autograph=False)
        found = traced[background]({"image": tf.constant(content)}, tf.constant([0, 0], tf.int64))
        assert found["_fault"] == b""
        return found["image"].numpy()

    return run


@pytest.mark.parametrize("name", FILES)
def test_images_are_on_their_background(decode, name):
    """White by default, or a colour, or none: then Pillow's `convert("RGB")`, which the released code uses."""
    content = FILES[name]
    opened = Image.open(io.BytesIO(content))
    np.testing.assert_array_equal(decode(content), as_seen(content))
    np.testing.assert_array_equal(decode(content, COLOUR), as_seen(content, COLOUR))
    np.testing.assert_array_equal(decode(content, None), opened.convert("RGB"))
    for background, expected in (
        (255, as_seen(content)),
        (COLOUR, as_seen(content, COLOUR)),
        (None, opened.convert("RGB")),
    ):
        np.testing.assert_array_equal(to_rgb(Image.open(io.BytesIO(content)), background), expected)
    assert ("unused" in name) == np.array_equal(decode(content), decode(content, COLOUR))


def test_numbers_of_16_bits(decode):
    """The upper eight bits count. Pillow cannot read a colour key of 16 bits."""
    levels = np.random.default_rng(0).integers(0, 2**16, (5, 7, 4), dtype=np.uint16)
    high = (levels >> 8).astype(np.uint8)
    for kind, channels in ((6, [0, 1, 2, 3]), (4, [0, 3])):
        rows = b"".join(b"\0" + row.tobytes() for row in levels[..., channels].astype(">u2"))
        content = image_zoo.png(7, 5, rows, bits=16, kind=kind)
        shown = high[..., channels[:-1] if kind == 6 else [0, 0, 0]]
        expected = Image.fromarray(np.dstack([shown, high[..., 3]]))
        ground = Image.new("RGBA", expected.size, (255, 255, 255, 255))
        np.testing.assert_array_equal(decode(content), Image.alpha_composite(ground, expected).convert("RGB"))
    rows = b"".join(b"\0" + row.tobytes() for row in levels[..., :3].astype(">u2"))
    key = levels[2, 3, :3].astype(">u2").tobytes()
    content = with_chunk(image_zoo.png(7, 5, rows, bits=16, kind=2), b"tRNS", key)
    expected = high[..., :3].copy()
    expected[2, 3] = COLOUR
    np.testing.assert_array_equal(decode(content, COLOUR), expected)


def test_an_index_outside_of_the_palette_changes_nothing(decode):
    content = bytearray(encode(Image.fromarray(picture(2)).quantize(4), "GIF", transparency=0))
    content[content.index(b"!\xf9") + 6] = 200
    np.testing.assert_array_equal(decode(bytes(content)), as_seen(bytes(content)))


def test_every_level_and_alpha():
    levels, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    pixels = np.dstack([levels, levels, levels[::-1], alpha])
    for background in ((255, 255, 255), (0, 127, 31)):
        ground = Image.new("RGBA", (256, 256), (*background, 255))
        expected = Image.alpha_composite(ground, Image.fromarray(pixels)).convert("RGB")
        np.testing.assert_array_equal(lay_on(background, tf.constant(pixels)), expected)


def test_opaque_files_take_the_short_way():
    opaque = Image.fromarray(picture(0))
    for content in (encode(opaque, "PNG"), encode(opaque, "PNG", "P"), encode(opaque, "WEBP"), encode(opaque, "JPEG")):
        assert not has_alpha(tf.constant(content))
    for name in FILES:
        if name.endswith(("png", "webp")):
            assert has_alpha(tf.constant(FILES[name]))
    for content in (b"", b"\x89PNG", b"RIFF", b"RIFF1234WEBPVP8L"):
        assert not has_alpha(tf.constant(content))


@pytest.mark.parametrize("factory", [image_ops.decode, lambda **settings: crop.decode_view(8, **settings)])
@pytest.mark.parametrize("background", [256, -1, "white", (1, 2), (1, 2, 3.0), 1.5, (0, 0, 0, 0)])
def test_mistakes(factory, background):
    with pytest.raises(UserError, match=r"found the background .*; expected a level from 0 to 255"):
        factory(background=background)
    with pytest.raises(UserError, match="found exif_transpose=1; expected True or False"):
        factory(exif_transpose=1)
