"""How images become a model's input: read from and written to the files of other libraries, and done with Pillow."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

STATISTICS = {
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
PILLOW = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # numbers in `preprocessor_config.json`


def official(size: int) -> ConfigDict:
    """Of the official evaluation: short side to 256/224 of the size, without a margin from 384 on; 0.5 and 0.5."""
    return make(size, crop=1.0 if size >= 384 else 224 / 256)


def make(
    size: int,
    interpolation: str = "bicubic",
    crop: float = 0.0,
    mean: Sequence[float] = STATISTICS["inception"][0],
    std: Sequence[float] = STATISTICS["inception"][1],
) -> ConfigDict:
    """The section `preprocess` of a config.

    Args:
      size: side of the model's input in pixels.
      interpolation: filter of the resizing.
      crop: the side of the square cut out of the centre, as a share of the resized shorter side; 0: nothing is cut, and
        the whole image is squashed to a square.
      mean: of each channel, pixels in [0, 1].
      std: of each channel.
    """
    return ConfigDict(dict(size=size, interpolation=interpolation, crop=float(crop), mean=tuple(mean), std=tuple(std)))


def short_side(section: Mapping[str, Any]) -> int:
    """The shorter side in pixels before the square is cut out."""
    return math.floor(section["size"] / section["crop"] + 0.5)


def from_hf(file: Mapping[str, Any], size: int) -> ConfigDict:
    """From a `preprocessor_config.json`; what it leaves out is that of transformers' BEiT."""
    names = {number: name for name, number in PILLOW.items()}
    crop = 0.0
    if file.get("do_center_crop", False):
        resized, cut = (file.get(key, size) for key in ("size", "crop_size"))
        resized, cut = (value if isinstance(value, int) else min(value.values()) for value in (resized, cut))
        crop = cut / resized
    mean, std = (file.get(f"image_{key}", 0.5) for key in ("mean", "std"))
    mean, std = (value if isinstance(value, Sequence) else [value] * 3 for value in (mean, std))
    return make(size, names.get(file.get("resample", 3), "bicubic"), crop, mean, std)


def to_hf(section: Mapping[str, Any]) -> dict[str, Any]:
    """A `preprocessor_config.json`."""
    size = section["size"]
    resized = short_side(section) if section["crop"] else size
    return {
        "image_processor_type": "BeitImageProcessor",
        "do_resize": True,
        "size": {"height": resized, "width": resized},
        "resample": PILLOW[section["interpolation"]],
        "do_center_crop": bool(section["crop"]),
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(section["mean"]),
        "image_std": list(section["std"]),
        "do_reduce_labels": False,
    }


def from_timm(file: Mapping[str, Any], size: int) -> ConfigDict:
    """From the `pretrained_cfg` of a timm `config.json`."""
    keys = {"interpolation": "interpolation", "crop_pct": "crop", "mean": "mean", "std": "std"}
    return make(size, **{"crop": 0.9} | {ours: file[theirs] for theirs, ours in keys.items() if theirs in file})


def to_timm(section: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """The `pretrained_cfg` of a timm `config.json`."""
    return {
        "input_size": [3, section["size"], section["size"]],
        "fixed_input_size": True,
        "interpolation": section["interpolation"],
        "crop_pct": section["crop"] or 1.0,
        "crop_mode": "center" if section["crop"] else "squash",
        "mean": list(section["mean"]),
        "std": list(section["std"]),
        "num_classes": classes,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def to_ops(section: Mapping[str, Any]) -> str:
    """The same as `data.eval_ops` of a classification config."""
    size, method = section["size"], section["interpolation"]
    resize = f"resize({size}, {method!r})"
    if section["crop"]:
        resize = f"resize_small({short_side(section)}, {method!r})|central_crop({size})"
    names = [name for name, pair in STATISTICS.items() if pair == (tuple(section["mean"]), tuple(section["std"]))]
    statistics = repr(names[0]) if names else f"{tuple(section['mean'])}, {tuple(section['std'])}"
    return f"decode|{resize}|normalize({statistics})|keep('image', 'label')"


def from_ops(ops: str, size: int) -> ConfigDict:
    """From `data.eval_ops`, as far as they are those that this project's configs write."""
    short, name = re.search(r"resize_small\((\d+)", ops), re.search(r"normalize\(['\"](\w+)['\"]", ops)
    mean, std = STATISTICS.get(name[1] if name else "", STATISTICS["inception"])
    return make(size, crop=size / int(short[1]) if short else 0.0, mean=mean, std=std)


def preprocess(images: Sequence[Image.Image], section: Mapping[str, Any]) -> np.ndarray:
    """Pictures to the model's input, float32 `[b, size, size, 3]`.

    >>> preprocess([Image.new("L", (300, 200), 255)], official(224)).max()
    np.float32(1.0)
    """
    size, method = section["size"], Image.Resampling(PILLOW[section["interpolation"]])

    def one(image: Image.Image) -> np.ndarray:
        image = image.convert("RGB")
        if section["crop"]:
            short = short_side(section)
            scale = short / min(image.size)
            image = image.resize([max(short, int(side * scale)) for side in image.size], method)
            left, top = ((side - size) // 2 for side in image.size)
            image = image.crop((left, top, left + size, top + size))
        else:
            image = image.resize((size, size), method)
        return np.asarray(image, np.float32) / 255

    pixels = np.stack([one(image) for image in images])
    return ((pixels - np.float32(section["mean"])) / np.float32(section["std"])).astype(np.float32)
