"""The official preprocessing of pre-training in Pillow and NumPy, a baseline: one image at a time, in stages.

It is what unilm `beit/datasets.py`, `transforms.py` and `masking_generator.py` do, together with what they use of
torchvision, rewritten.
"""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np

Stage = Callable[[random.Random, Any], Any]


def stages(size: int, tokenizer_size: int, statistics: tuple[Any, Any]) -> dict[str, Stage]:
    """Functions of (random numbers, result of the stage before), the first one of the path of a file.

    The result of the last one has `image` float32 `[3, size, size]`, `tokenizer_image` likewise, and `mask` int
    `[14, 14]`.
    """
    from PIL import Image, ImageEnhance

    mean, std = (np.array(numbers, np.float32).reshape(3, 1, 1) for numbers in statistics)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

    def decode(source: random.Random, path: str) -> Image.Image:
        with open(path, "rb") as file:
            return Image.open(file).convert("RGB")

    def jitter(source: random.Random, image: Image.Image) -> Image.Image:
        for index in source.sample(range(3), 3):
            image = enhancers[index](image).enhance(source.uniform(0.6, 1.4))
        return image

    def views(source: random.Random, image: Image.Image) -> tuple[Image.Image, Image.Image]:
        if source.random() < 0.5:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        cropped = image.crop(random_box(source, *image.size))
        return (
            cropped.resize((size, size), Image.BICUBIC),
            cropped.resize((tokenizer_size, tokenizer_size), Image.LANCZOS),
        )

    def arrays(source: random.Random, images: tuple[Image.Image, Image.Image]) -> dict[str, np.ndarray]:
        first, second = (np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255 for image in images)
        return {"image": (first - mean) / std, "tokenizer_image": 0.8 * second + 0.1}

    def mask(source: random.Random, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**features, "mask": official_mask(source, (14, 14), 75, 16)}

    return dict(decode=decode, jitter=jitter, views=views, arrays=arrays, mask=mask)


def random_box(source: random.Random, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random box; see `data.ops.crop_box.box_from_draws` for the rule."""
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


def official_mask(source: random.Random, grid: tuple[int, int], num_masked: int, min_block: int) -> np.ndarray:
    """int `[h, w]` of 0 and 1: blockwise masks with Python's random numbers, which mask block after block by cells."""
    mask, count, log_aspect = np.zeros(grid, int), 0, math.log(1 / 0.3)
    while count < num_masked:
        added, cap = 0, num_masked - count
        for _ in range(10):
            area, aspect = source.uniform(min_block, cap), math.exp(source.uniform(-log_aspect, log_aspect))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= grid[0] or width >= grid[1]:
                continue
            top, left = source.randint(0, grid[0] - height), source.randint(0, grid[1] - width)
            new = height * width - mask[top : top + height, left : left + width].sum()
            if not 0 < new <= cap:
                continue
            for row in range(top, top + height):
                for column in range(left, left + width):
                    if mask[row, column] == 0:
                        mask[row, column] = 1
                        added += 1
            break
        if not added:
            break
        count += added
    return mask
