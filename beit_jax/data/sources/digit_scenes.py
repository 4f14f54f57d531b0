"""Data for segmentation without a download: the scanned digits of `digits`, several of them on a coloured canvas."""

import colorsys

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from beit_jax.data.sources.digits import held_out

SIDE = 32
DIGITS = (2, 4)  # smallest and largest number in a scene
SIZES = (12, 16)  # pixels, smallest and largest
ATTEMPTS = 20  # at the position of a digit, before the layout is drawn again
OVERLAP = 0.2  # largest fraction of a digit's square that may lie on the squares before it
INK = 0.45  # amount of ink above which a pixel belongs to the digit
NUM_SCENES = {"train": 1000, "test": 200}


class DigitScenes(tfds.core.GeneratorBasedBuilder):
    """32 x 32 scenes of 2 to 4 of sklearn's scanned digits, with a label map: 0 background, d + 1 the digit d."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded, and tfds' search for checksums needs a package that it does not require

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="png"),
            "annotation": tfds.features.Image(shape=(SIDE, SIDE, 1), encoding_format="png"),
        }
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, description=self.__doc__, features=features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in NUM_SCENES}

    def _generate_examples(self, split):
        for index, (image, labels) in enumerate(scenes(split, NUM_SCENES[split])):
            yield index, {"image": image, "annotation": labels[..., None]}


def scenes(split: str, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first scenes of a split: images uint8 `[32, 32, 3]` and labels uint8 `[32, 32]`, always the same.

    Test scenes show the digits that are held out by `digits.held_out`, train scenes the others.
    """
    from sklearn.datasets import load_digits

    scans = load_digits()
    chosen = np.flatnonzero(held_out(scans.target) == (split == "test"))
    random = np.random.RandomState(list(NUM_SCENES).index(split))
    return [_scene(random, scans.images[chosen], scans.target[chosen]) for _ in range(count)]


def _scene(random: np.random.RandomState, scans: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hue, bright = random.uniform(), random.randint(2)
    image, labels = _background(random, hue, bright), np.zeros((SIDE, SIDE), np.uint8)
    for square in _layout(random, random.randint(DIGITS[0], DIGITS[1] + 1)):
        index, side = random.randint(len(scans)), square[0].stop - square[0].start
        scan = Image.fromarray(np.round(scans[index] * (255 / 16)).astype(np.uint8))
        ink = np.asarray(scan.resize((side, side), Image.Resampling.BICUBIC)) / 255
        image[square] += ink[..., None] * (_ink_colour(random, hue, bright) - image[square])
        labels[square] = np.where(ink > INK, digits[index] + 1, labels[square])
    image += random.normal(scale=6, size=image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), labels


def _background(random: np.random.RandomState, hue: float, bright: int) -> np.ndarray:
    """float `[32, 32, 3]` levels: clouds around one colour, of low saturation, dark or bright."""
    colour = _levels(hue, random.uniform(0.15, 0.5), random.uniform(0.75, 0.95) if bright else random.uniform(0.1, 0.3))
    coarse = Image.fromarray(random.randint(0, 256, (4, 4, 3)).astype(np.uint8))
    clouds = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) - 127.5
    return colour + 0.2 * clouds


def _ink_colour(random: np.random.RandomState, hue: float, bright: int) -> np.ndarray:
    """Levels `[3]` of a colour that differs from the background: another hue, and dark on bright or bright on dark."""
    value = random.uniform(0.1, 0.5) if bright else random.uniform(0.75, 1.0)
    return _levels((hue + random.uniform(0.2, 0.8)) % 1, random.uniform(0.4, 0.95), value)


def _levels(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _layout(random: np.random.RandomState, count: int) -> list[tuple[slice, slice]]:
    """Rows and columns of `count` squares, none of which is covered by much of the others."""
    squares, taken, attempts = [], np.zeros((SIDE, SIDE), bool), 0
    while len(squares) < count:
        side = random.randint(SIZES[0], SIZES[1] + 1)
        top, left = random.randint(0, SIDE - side + 1, 2)
        square = slice(top, top + side), slice(left, left + side)
        attempts += 1
        if taken[square].mean() <= OVERLAP:
            squares.append(square)
            taken[square], attempts = True, 0
        elif attempts == ATTEMPTS:
            squares, taken, attempts = [], np.zeros((SIDE, SIDE), bool), 0
    return squares
