"""The PNG files of most data sets, which need no more than TensorFlow's decoder.

All other PNG files are searched for transparency, an orientation and compressed texts, which for a small image takes
far longer than to decode it.
"""

import tensorflow as tf

# 8 bits a channel, grey or red, green and blue, fewer than 8192 rows and columns, and the pixels right behind the
# header: no transparent colour, which would stand between them.
_HEADER = (
    r"\CPNG\r\n\x1a\n\x00\x00\x00\rIHDR"
    r"\x00\x00[\x00-\x1f]\C\x00\x00[\x00-\x1f]\C"  # width and height
    r"\x08[\x00\x02]\x00\x00[\x00\x01]"  # bits, kind of pixels, compression, filter, interlacing
    r"\C{4}\C{4}IDAT"  # the header's checksum, the length of the next part
)
_HEADER_LENGTH = 41  # bytes
_REST = r"\C*(zTXt|iTXt|eXIf)\C*"


def is_plain_png(encoded: tf.Tensor) -> tf.Tensor:
    """Whether the file is an opaque PNG file to be seen as stored, without texts that may be compressed: bool.

    A file that is none in spite of such a header cannot be decoded.
    """
    head = tf.strings.substr(encoded, 0, _HEADER_LENGTH)
    has_more = tf.strings.regex_full_match(encoded, _HEADER + _REST)  # of other files it reads no more than the header
    return tf.strings.regex_full_match(head, _HEADER) & ~has_more
