"""What image libraries say of files that they read all the same does not reach the log."""

import struct
import subprocess
import sys
import zlib

from image_zoo import encode, picture
from patience import PATIENCE_S

PROGRAM = """
import sys
from beit_jax.data import preprocessing
import tensorflow as tf
program = preprocessing.build_program("decode")
found = program.example({"image": tf.io.read_file(sys.argv[1])}, tf.constant([0, 0], tf.int64))
assert not found["_fault"].numpy() and found["image"].shape == (24, 32, 3)
"""


def test_a_bad_colour_profile_is_not_reported(tmp_path):
    data = b"ICC\0\0" + zlib.compress(b"x" * 200)
    chunk = struct.pack(">I", len(data)) + b"iCCP" + data + struct.pack(">I", zlib.crc32(b"iCCP" + data))
    content = encode(picture(0), "PNG")
    path = tmp_path / "image.png"
    path.write_bytes(content[:33] + chunk + content[33:])
    done = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert "iCCP" not in done.stderr and "PNG" not in done.stderr and "libpng" not in done.stderr
