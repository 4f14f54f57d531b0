"""Makes the two folders of images that docs/own_images.md measures, from icons and fonts of a Linux desktop.

  python docs/example_folders.py icons icons /usr/share/icons/Adwaita
  python docs/example_folders.py letters letters /usr/share/fonts FOLDER_OF_MORE_FONTS

`icons` has 802 PNG files of 17 kinds of icons, named by the first word of their names, as people keep images:
transparent, grey, with palettes, tiny, wide, with other files between them, and without split folders. `letters` has
12,000 grey PNG files of 28x28 pixels, the letters a to t; those of `validation/` are of other fonts than those of
`train/`.
"""

import collections
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

KINDS, ICONS = 17, 802
LETTERS, TRAIN, VALIDATION = "abcdefghijklmnopqrst", 10_000, 2_000
NO_LETTERS = ("symbol", "cmex", "cmsy", "nonuni", "siz", "emoji", "glyph", "bsy")  # in names of fonts


def icons(out: Path, theme: Path) -> None:
    """A folder for each kind of icon; a second size of some names makes up the number."""
    rng, kinds = random.Random(0), collections.defaultdict(dict)
    for file in sorted(theme.glob("*x*/*/*.png")):
        kinds[file.name.split("-")[0].split(".")[0]].setdefault(file.name, []).append(file)
    largest = sorted(kinds, key=lambda kind: -len(kinds[kind]))[:KINDS]
    files = [(kind, sizes) for kind in largest for sizes in kinds[kind].values()]
    for _, sizes in files:
        rng.shuffle(sizes)
    second = [(kind, sizes[1]) for kind, sizes in files if len(sizes) > 1]
    rng.shuffle(second)
    for kind, file in ([(kind, sizes[0]) for kind, sizes in files] + second)[:ICONS]:
        target = out / kind / f"{file.parent.parent.name}_{file.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.load()
            as_people_have_it(image, rng).save(target)
    for name in ("README.txt", ".DS_Store", f"{largest[0]}/Thumbs.db"):
        (out / name).write_bytes(b"no image")


def as_people_have_it(image: Image.Image, rng: random.Random) -> Image.Image:
    """More than half stay as they are; others get a palette, become grey, tiny or wide, or lose their transparency."""
    kind = rng.random()
    if kind < 0.2:
        return image.convert("RGBA").quantize(64)
    if kind < 0.3:
        return image.convert("LA")
    if kind < 0.35:
        return image.convert("RGBA").resize((rng.randint(3, 9),) * 2)
    if kind < 0.4:
        wide = Image.new("RGBA", (image.width * rng.randint(3, 8), image.height))
        wide.paste(image, (rng.randint(0, wide.width - image.width), 0))
        return wide
    if kind < 0.45:
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image.convert("RGBA"))
        return ground.convert("RGB")
    return image


def letters(out: Path, *folders: Path) -> None:
    """Letters of all sizes, shifted and turned a little, white on black."""
    rng = random.Random(0)
    found = {file.name: file for folder in folders for kind in ("ttf", "otf") for file in folder.rglob(f"*.{kind}")}
    files = [file for file in sorted(found.values()) if has_letters(file)]
    rng.shuffle(files)
    held_out = max(1, len(files) // 6)
    for split, some, count in (("validation", files[:held_out], VALIDATION), ("train", files[held_out:], TRAIN)):
        for number in range(count):
            letter = LETTERS[number % len(LETTERS)]
            file = some[number // len(LETTERS) % len(some)]
            target = out / split / letter / f"{number:05d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            draw_letter(letter, ImageFont.truetype(file, rng.randint(14, 22)), rng).save(target)
    print(f"{len(files)} fonts, of which {held_out} are held out")


def has_letters(file: Path) -> bool:
    """Whether a font has a picture of its own for each letter."""
    if any(word in file.name.lower() for word in NO_LETTERS):
        return False
    try:
        font = ImageFont.truetype(file, 20)
    except OSError:
        return False
    return len({bytes(font.getmask(letter)) for letter in LETTERS}) == len(LETTERS)


def draw_letter(letter: str, font: ImageFont.FreeTypeFont, rng: random.Random) -> Image.Image:
    """A grey image of 28x28 pixels."""
    image = Image.new("L", (28, 28), 0)
    centre = 14 + rng.uniform(-3, 3), 14 + rng.uniform(-3, 3)
    ImageDraw.Draw(image).text(centre, letter, 255, font, anchor="mm")
    return image.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in ("icons", "letters"):
        sys.exit(__doc__)
    target, *sources = map(Path, sys.argv[2:])
    if target.exists():
        sys.exit(f"{target} exists; choose another folder")
    {"icons": icons, "letters": letters}[sys.argv[1]](target, *sources)
