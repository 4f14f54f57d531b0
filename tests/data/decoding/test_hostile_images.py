"""Files that are made to cost much are refused, or cost little; `tests/reliability/image_costs.py` measures them."""

import io
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import hostile_images
import numpy as np
import pytest
import tensorflow as tf
from image_zoo import bomb, chunk, encode, picture
from PIL import Image

from beit_jax.convert.picture import to_rgb
from beit_jax.data.decoding.gif import decode_gif
from beit_jax.data.decoding.image_header import read_size
from beit_jax.data.decoding.jpeg import MOST_SCANS, count_scans
from beit_jax.data.decoding.label_png import decode_labels
from beit_jax.data.decoding.png_texts import MOST_TEXTS
from beit_jax.data.ops import crop
from beit_jax.data.ops import image as image_ops

ROOT = Path(__file__).parents[3]
SECONDS = 5  # of a processor; without the limits each file takes many times as much of time or memory
MEBIBYTES = 150  # beside four times the file
SMALL = hostile_images.gif_frame(32, 24)
TEXT = hostile_images.png_bomb(b"zTXt", b"x\0\0", hostile_images.MIB)
HOSTILE = {  # each with a part of what is said of it, empty if it is read
    "frames": (lambda: hostile_images.gif_frames(2000, 100), ""),
    "a large second frame": (
        lambda: hostile_images.gif(SMALL + b"," + struct.pack("<HHHHBB", 0, 0, 60_000, 60_000, 0, 8) + b"\1\0\0"),
        "",
    ),
    "a comment of a hundred thousand parts": (
        lambda: hostile_images.gif(b"!\xfe" + b"\1x" * 10**5 + b"\0" + SMALL),
        "",
    ),
    "a hundred thousand comments": (lambda: hostile_images.gif(b"!\xfe\1x\0" * 10**5 + SMALL), "damaged"),
    "progressive scans": (lambda: hostile_images.jpeg_scans(1000, 10_000), "scans, expected at most 100"),
    "sequential scans": (lambda: hostile_images.jpeg_sequential_scans(1000, 10_000), "10003 scans"),
    "texts": (lambda: hostile_images.png_with(TEXT * 1000), "1000 compressed texts, expected at most 50"),
    "texts behind the pixels": (lambda: hostile_images.png_with(behind=TEXT * 1000), "1000 compressed texts"),
    "a false header": (lambda: hostile_images.png_behind_a_false_header(12_000), "damaged"),
    "a large BMP file": (lambda: hostile_images.bmp(12_000, -12_000, 8), "12000 x 12000 pixels"),
}


@pytest.fixture(scope="module")
def decode():
    """Runs the op on a file, traced once."""
    op = tf.function(image_ops.decode(), autograph=False)
    seed = tf.constant([0, 0], tf.int64)

    def run(content: bytes) -> tuple[np.ndarray, str]:
        found = op({"image": tf.constant(content)}, seed)
        return found["image"].numpy(), found["_fault"].numpy().decode()

    for file_format in ("JPEG", "PNG", "GIF", "BMP"):
        run(encode(picture(0), file_format))
    return run


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images_cost_little(decode, name):
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of the memory cannot be measured here")
    make, reason = HOSTILE[name]
    content = make()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = memory("VmRSS"), time.process_time()
    _, fault = decode(content)
    assert time.process_time() - began < SECONDS
    assert memory("VmHWM") - before < MEBIBYTES + 4 * len(content) / 2**20
    assert reason in fault and bool(reason) == bool(fault)


def memory(key: str) -> float:
    """Of this process, in MiB."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) / 1024


def test_as_many_scans_and_texts_as_are_tolerated(decode):
    within = hostile_images.jpeg_scans(16, MOST_SCANS - 6)
    assert int(count_scans(tf.constant(within))) == MOST_SCANS and not decode(within)[1]
    assert decode(hostile_images.jpeg_scans(16, MOST_SCANS - 5))[1] == "101 scans, expected at most 100"
    assert not decode(hostile_images.png_with(TEXT * MOST_TEXTS))[1]


def test_the_view_of_a_box_counts_scans_too():
    seed = tf.constant([0, 0], tf.int64)
    op = tf.function(lambda content: crop._decode_random_box(content, seed, (0.5, 1.0), False), autograph=False)
    assert op(tf.constant(hostile_images.jpeg_scans(16, 10))).shape[-1] == 3
    with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
        op(tf.constant(hostile_images.jpeg_scans(16, 200)))


def control(disposal: int, transparent: int | None) -> bytes:
    """The block of a GIF file in front of a frame, with its transparent colour."""
    return b"!\xf9\4" + bytes([disposal << 2 | (transparent is not None), 0, 0, transparent or 0, 0])


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 90), None])
def test_the_first_frame_is_that_of_pillow(background):
    """In a corner or not, smaller than the image or beyond it, with a palette of its own or not."""
    levels, op = picture(3)[..., 0], tf.function(lambda content: decode_gif(content, background), autograph=False)
    second = control(2, 7) + hostile_images.gif_frame(60, 60)
    palette = np.random.default_rng(0).bytes(768)
    for place, side in (((0, 0), 32), ((5, 9), 60), ((20, 20), 40)):
        for transparent in (None, int(levels[3, 3])):
            for own in (b"", palette):
                frame = bytearray(hostile_images.gif_frame(32, 24, hostile_images.compressed(levels)))
                frame[1:5] = struct.pack("<HH", *place)
                frame[9:10] = bytes([0x87 if own else 0]) + own
                content = hostile_images.gif(control(2, transparent) + bytes(frame) + second, side)
                expected = to_rgb(Image.open(io.BytesIO(content)), background, True)
                np.testing.assert_array_equal(op(tf.constant(content)), expected)


def test_parts_of_every_length(decode):
    """Parts that end at, before and behind the windows in which they are followed."""
    levels = np.random.default_rng(0).integers(0, 256, (150, 150), dtype=np.uint8)
    for size in (1, 2, 3, 100, 254, 255):
        frame = hostile_images.gif_frame(150, 150, hostile_images.compressed(levels), size)
        pixels, fault = decode(hostile_images.gif(b"!\xfe\3abc\0" + frame + SMALL, 150))
        assert not fault
        np.testing.assert_array_equal(pixels[..., 1], levels)
        for cut in (1, 2, 300, len(frame) - 5):
            assert decode(hostile_images.gif(frame, 150)[: -1 - cut])[1]


def test_the_frames_of_a_gif_are_no_label_map():
    op, content = tf.function(decode_labels, autograph=False), hostile_images.gif_frames(2000, 100)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no PNG file"):
        op(tf.constant(encode(picture(0), "GIF")))
    began = time.process_time()
    with pytest.raises(tf.errors.InvalidArgumentError, match="no PNG file"):
        op(tf.constant(content))
    assert time.process_time() - began < 0.3  # 400 megapixels would take longer


def test_headers():
    for content, size in (
        (hostile_images.bmp(5, -7, 24), (7, 5)),
        (hostile_images.bmp(7, 5, 8), (5, 7)),
        (bomb(64), (64, 64)),
        (bomb(64)[:8] + chunk(b"abCd", bytes(13)) + bomb(64)[8:], (0, 0)),
    ):
        assert tuple(read_size(tf.constant(content)).numpy()) == size


@pytest.mark.slow
def test_every_kind_is_within_the_limits():
    program = ROOT / "tests" / "reliability" / "image_costs.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-6000:]
