"""Finds the first frame of a GIF file. What is behind it may be gigabytes of other frames, and is not read.

A file is a list of blocks. The data of a block are in parts, each of which begins with its length; a length of 0 ends
them. A file may have millions of parts, so these are not gone through one by one.
"""

from typing import NamedTuple

import tensorflow as tf

from beit_jax.data.decoding.file_bytes import read_bytes

FLAGS, PALETTE = 10, 13  # positions in the file
EXTENSION, CONTROL, FRAME = b"!"[0], 0xF9, b","[0]  # how blocks begin
DESCRIPTOR = 10  # bytes of a frame in front of its palette
HAS_PALETTE, SIZE_BITS = 0x80, 7
MOST_EXTENSIONS = 100  # in front of the frame; a file has two or three
LONGEST_PART = 255
DOUBLINGS = 13
WINDOW = 2**DOUBLINGS  # bytes


class Frame(NamedTuple):
    """Positions in a file, all int32 scalars."""

    control: tf.Tensor  # of the control block, which tells its transparent colour; -1: there is none
    start: tf.Tensor
    end: tf.Tensor
    is_whole: tf.Tensor  # bool


def palette_bytes(flags: tf.Tensor) -> tf.Tensor:
    """How many bytes the palette of a file or a frame has, int32, by its flags."""
    return tf.where(flags & HAS_PALETTE > 0, 3 * 2 ** ((flags & SIZE_BITS) + 1), 0)


def first_frame(encoded: tf.Tensor) -> Frame:
    """Where the first frame of a GIF file is; what is damaged has no whole frame."""

    def is_extension(position: tf.Tensor, control: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        return (read_bytes(encoded, position, 1)[0] == EXTENSION) & (count < MOST_EXTENSIONS)

    def skip(position: tf.Tensor, control: tf.Tensor, count: tf.Tensor) -> list[tf.Tensor]:
        is_control = read_bytes(encoded, position + 1, 1)[0] == CONTROL
        return [_end_of_parts(encoded, position + 2), tf.where(is_control, position, control), count + 1]

    blocks = PALETTE + palette_bytes(read_bytes(encoded, FLAGS, 1)[0])
    start, control, _ = tf.while_loop(is_extension, skip, [blocks, -1, 0])
    own_palette = palette_bytes(read_bytes(encoded, start + DESCRIPTOR - 1, 1)[0])
    end = _end_of_parts(encoded, start + DESCRIPTOR + own_palette + 1)
    is_frame = read_bytes(encoded, start, 1)[0] == FRAME
    return Frame(control, start, end, is_frame & (end <= tf.strings.length(encoded)))


def _end_of_parts(encoded: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """The position behind the parts that begin at `start`; behind the end of the file if they are cut short.

    For each byte of a window, `jump` says where the next part would begin if one began there. Jumps are doubled until
    the first one leads to the last part, or out of the window.
    """

    def cross_window(position: tf.Tensor, _: tf.Tensor) -> list[tf.Tensor]:
        lengths = read_bytes(encoded, position, WINDOW)  # 0 behind the end of the file
        places = tf.range(WINDOW + LONGEST_PART + 1)
        jump = places + tf.pad(tf.where(lengths > 0, lengths + 1, 0), [[0, LONGEST_PART + 1]])
        for _ in range(DOUBLINGS):
            jump = tf.gather(jump, jump)
        return [position + jump[0], jump[0] < WINDOW]

    position, _ = tf.while_loop(lambda _, is_last: ~is_last, cross_window, [start, False])
    return position + 1
