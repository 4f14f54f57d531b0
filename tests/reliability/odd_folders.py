"""Folders of very few, very small and very plain images, with classes or with label maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def make_folders(root: Path) -> dict[str, list[str]]:
    """Folders of images by what they are for: classes, or label maps."""
    draw = np.random.default_rng(0)

    def images(name: str, splits: Mapping[str, Mapping[str, int]], size: tuple[int, int] = (9, 13), flat: bool = False):
        for split, classes in splits.items():
            for label, count in classes.items():
                folder = root / name / split / label
                folder.mkdir(parents=True)
                for index in range(count):
                    pixels = np.full((*size, 3), 128) if flat else draw.integers(0, 256, (*size, 3))
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")

    images("usual", {"train": dict(a=4, b=3, c=3), "validation": dict(a=2, b=1, c=2)})
    images("one", {"train": dict(a=1), "validation": dict(a=1)})
    images("one_class", {"train": dict(a=5), "validation": dict(a=3)})
    images("one_each", {"train": dict(a=1, b=1, c=1), "validation": dict(b=1)})
    images("pixel", {"train": dict(a=2, b=2), "validation": dict(a=1, b=1)}, (1, 1))
    images("flat", {"train": dict(a=3, b=3), "validation": dict(a=1, b=2)}, flat=True)
    images("line", {"train": dict(a=2, b=3), "validation": dict(a=1)}, (1, 40))

    def pairs(name: str, maps: Sequence[np.ndarray]) -> None:
        for split in ("train", "validation"):
            for kind in ("images", "annotations"):
                (root / name / kind / split).mkdir(parents=True)
            for index, labels in enumerate(maps):
                file = f"{split}/{split}{index}.png"
                Image.fromarray(labels.astype(np.uint8)).save(root / name / "annotations" / file)
                pixels = draw.integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name / "images" / file)

    pairs("pairs", [draw.integers(0, 3, (10, 14)) for _ in range(6)])
    pairs("pairs_flat", [np.full((9, 9), index % 2) for index in range(5)])
    pairs("pairs_one_class", [np.zeros((9, 20)) for _ in range(4)])
    pairs("pairs_void", [np.full((9, 9), 255), *[np.full((9, 9), 255) for _ in range(3)]])
    pairs("pairs_almost_void", [np.full((9, 9), 255), np.pad(np.zeros((1, 1)), 4, constant_values=255)] * 2)
    pairs("pairs_pixel", [np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1))])
    pairs("pairs_one", [np.array([[0, 1]])])
    classes = ["usual", "one", "one_class", "one_each", "pixel", "flat", "line"]
    labelled = ["pairs", "pairs_flat", "pairs_one_class", "pairs_void", "pairs_almost_void", "pairs_pixel", "pairs_one"]
    return {"classes": classes, "pairs": labelled}
