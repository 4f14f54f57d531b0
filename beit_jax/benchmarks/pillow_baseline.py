"""The official transform of pre-training in Pillow and NumPy, to compare with: one image at a time, in stages.

unilm `beit/datasets.py` and `transforms.py`, with what they take from torchvision, written anew from what they do.
"""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from beit_jax.benchmarks.masks import official_mask

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
Stage = Callable[[random.Random, Any], Any]


def stages(size: int, tokenizer_size: int, statistics: tuple[Any, Any]) -> dict[str, Stage]:
    """Functions of (random numbers, what the stage before made), the first of a file's path.

    The last one makes `image` float32 `[3, size, size]`, `tokenizer_image` likewise, and `mask` int `[14, 14]`.
    """
    mean, std = (np.array(numbers, np.float32).reshape(3, 1, 1) for numbers in statistics)

    def views(source: random.Random, image: Image.Image) -> tuple[Image.Image, Image.Image]:
        if source.random() < 0.5:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        cropped = image.crop(box(source, *image.size))
        return (
            cropped.resize((size, size), Image.BICUBIC),
            cropped.resize((tokenizer_size, tokenizer_size), Image.LANCZOS),
        )

    def arrays(source: random.Random, images: tuple[Image.Image, Image.Image]) -> dict[str, np.ndarray]:
        first, second = (np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255 for image in images)
        return {"image": (first - mean) / std, "tokenizer_image": 0.8 * second + 0.1}

    def mask(source: random.Random, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**found, "mask": official_mask(source, (14, 14), 75, 16)}

    return dict(decode=_decode, jitter=_jitter, views=views, arrays=arrays, mask=mask)


def _decode(source: random.Random, path: str) -> Image.Image:
    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


def _jitter(source: random.Random, image: Image.Image) -> Image.Image:
    for which in source.sample(range(3), 3):
        image = ENHANCERS[which](image).enhance(source.uniform(0.6, 1.4))
    return image


def box(source: random.Random, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, upper, right and lower side of a random box; see `data.crop_box` for the rule."""
    for _ in range(10):
        area = height * width * source.uniform(0.08, 1.0)
        aspect = math.exp(source.uniform(math.log(3 / 4), math.log(4 / 3)))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            top, left = source.randint(0, height - high), source.randint(0, width - wide)
            return left, top, left + wide, top + high
    wide, high = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high
