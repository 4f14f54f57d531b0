"""Makes the picture of the first page from the pictures of a quick start.

python docs/quickstart_picture.py runs/quickstart docs/quickstart.png
"""

import sys
from pathlib import Path

from PIL import Image

ROWS = ("original", "masked", "prediction", "tokenizer")
COLUMNS, SIDE = 8, 68  # an image of 64 pixels and its gaps


def main(workdir: str, target: str) -> None:
    """Puts the first images of each row below each other; 64 colours are enough for grey digits."""
    picture = Image.new("RGB", (COLUMNS * SIDE, len(ROWS) * SIDE), "white")
    for row, name in enumerate(ROWS):
        with Image.open(Path(workdir, "pretrain", "pictures", f"{name}.png")) as strip:
            picture.paste(strip.crop((0, 0, COLUMNS * SIDE, SIDE)), (0, row * SIDE))
    picture.quantize(64).save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
