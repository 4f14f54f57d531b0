"""Which PNG files take the short path, and that they are decoded as the others are."""

import hostile_images
import image_zoo
import numpy as np
import pytest
import tensorflow as tf
from image_zoo import as_seen, chunk, encode, picture
from PIL import Image

from beit_jax.data.decoding.decode import Decoding, decode_rgb
from beit_jax.data.decoding.plain_png import is_plain_png

PLAIN = {
    "colours": encode(picture(0), "PNG"),
    "grey": encode(Image.fromarray(picture(1)).convert("L"), "PNG"),
    "interlaced": image_zoo.interlaced_png(picture(2)),
    "by TensorFlow": tf.io.encode_png(picture(3)).numpy(),
    "5000 rows": image_zoo.png(3, 5000, image_zoo.png_rows(np.arange(15000).reshape(5000, 3) % 256, 8), 8, 0),
    "a time behind the pixels": hostile_images.png_with(behind=chunk(b"tIME", bytes([7, 230, 1, 1, 0, 0, 0]))),
}
OTHERS = {
    "alpha": encode(picture(0), "PNG", mode="RGBA"),
    "palette": encode(picture(0), "PNG", mode="P"),
    "one bit": encode(picture(0), "PNG", mode="1"),
    "16 bits": image_zoo.png_kinds()["kind 2, 16 bits"],
    "a transparent colour": image_zoo.png_kinds()["kind 2, 8 bits, a transparent level"],
    "a text": hostile_images.png_with(behind=chunk(b"zTXt", b"text\0\0")),
    "an orientation": encode(picture(0), "PNG", exif=image_zoo.exif(6)),
    "an orientation behind the pixels": hostile_images.png_with(behind=chunk(b"eXIf", image_zoo.exif(6)[6:])),
    "another first chunk": hostile_images.png_behind_a_false_header(8),
    "9000 columns": image_zoo.png(9000, 1, bytes(9001), 8, 0),
    "JPEG": encode(picture(0), "JPEG"),
    "cut in its header": PLAIN["colours"][:40],
    "nothing": b"",
}


@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
def test_is_plain_png(name):
    assert bool(is_plain_png(tf.constant((PLAIN | OTHERS)[name]))) == (name in PLAIN)


@pytest.mark.parametrize("name", PLAIN)
def test_decoded_as_pillow_does(name):
    np.testing.assert_array_equal(decode_rgb(tf.constant(PLAIN[name]), Decoding()).numpy(), as_seen(PLAIN[name]))


@pytest.mark.parametrize("cut", [41, -20])
def test_damaged_plain_files_are_errors(cut):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_rgb(tf.constant(PLAIN["colours"][:cut]), Decoding())
