"""Odd images take little memory: thin ones, which resizing would make enormous, and large ones with transparency."""

import os
import subprocess
import sys
from pathlib import Path

import image_zoo
import numpy as np
import pytest
from PIL import Image

LIMIT = 1.35  # GiB, of which the libraries alone take about 0.7
# As many heaps as are used at once. By default glibc makes more for more threads and processors, and keeps what was
# freed in each: the same work took from 1.39 to 1.54 GiB, and takes 1.22 to 1.23 with this.
HEAPS = {"MALLOC_ARENA_MAX": "2"}
CHAINS = [  # the first one gets all images, the others the thin and the large ones
    "decode|resize_small(256)|central_crop(224)",
    "decode|resize(224)",
    "decode|color_jitter(0.4)|two_views(224, 112)",
    "decode|resize_within(512, 2048)",
]
PROGRAM = """
import io, sys, warnings
from pathlib import Path
import tensorflow as tf
from PIL import Image
from beit_jax.convert.preprocessing import official_section, preprocess
from beit_jax.data.preprocessing import build_program

warnings.simplefilter("ignore")
folder, *chains = sys.argv[1:]
few, zoo = [[path.read_bytes() for path in (Path(folder) / name).iterdir()] for name in ("few", "zoo")]
for content in few + zoo:
    with Image.open(io.BytesIO(content)) as image:
        assert preprocess([image], official_section(224)).shape == (1, 224, 224, 3)
for chain, files in zip(chains, [few + zoo, few, few, few]):
    images = tf.data.Dataset.from_tensor_slices(files)
    op = build_program(chain).example
    for image in images.map(lambda image: op({"image": image}, tf.constant([1, 2], tf.int64)), num_parallel_calls=2):
        assert image["_fault"].numpy() == b"", image["_fault"]
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def thin() -> dict[str, bytes]:
    """Black rows and columns of pixels, up to the longest that a PNG file may have."""
    sizes = [(1, 2500), (8000, 1), (3, 30_000), (1, 1_000_000), (1_000_000, 1)]
    return {
        f"{height} x {width}.png": image_zoo.encode(Image.fromarray(np.zeros((height, width), np.uint8)), "PNG")
        for height, width in sizes
    }


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux' /proc")
def test_the_zoo_needs_little_memory(tmp_path):
    side = 5000
    large = {"transparent.png": image_zoo.png(side, side, bytes(side * (4 * side + 1)), bits=8, kind=6)}
    zoo = {name: content for name, (content, _) in image_zoo.odd().items()}
    for folder, files in {"few": thin() | large, "zoo": zoo}.items():
        (tmp_path / folder).mkdir()
        for name, content in files.items():
            (tmp_path / folder / name).write_bytes(content)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), *CHAINS]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | HEAPS)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert int(ended.stdout) / 2**20 < LIMIT
