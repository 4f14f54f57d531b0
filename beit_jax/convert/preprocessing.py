"""How images become a model's input: read from and written to the files of other libraries, and done with Pillow."""

import ast
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from beit_jax.models import variants

STATISTICS = {
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
PILLOW = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # numbers in `preprocessor_config.json`


def official(size: int) -> ConfigDict:
    """Of the official evaluation: short side to 256/224 of the size, without a margin from 384 on; 0.5 and 0.5."""
    return make(size, short_side=size if size >= 384 else round(size * 256 / 224))


def make(
    size: int,
    interpolation: str = "bicubic",
    short_side: int = 0,
    mean: Sequence[float] = STATISTICS["inception"][0],
    std: Sequence[float] = STATISTICS["inception"][1],
) -> ConfigDict:
    """The section `preprocess` of a config.

    Args:
      size: side of the model's input in pixels.
      interpolation: filter of the resizing.
      short_side: in pixels, to which the image is resized before the square is cut out of its centre; 0: nothing is
        cut, and the whole image is squashed to the square.
      mean: of each channel, pixels in [0, 1].
      std: of each channel.
    """
    return ConfigDict(
        dict(size=size, interpolation=interpolation, short_side=short_side, mean=tuple(mean), std=tuple(std))
    )


def from_hf(file: Mapping[str, Any], size: int) -> ConfigDict:
    """From a `preprocessor_config.json`; what it leaves out is that of transformers' BEiT."""
    names = {number: name for name, number in PILLOW.items()}
    short_side = 0
    if file.get("do_center_crop", False):
        resized = file.get("size", size)
        short_side = resized if isinstance(resized, int) else min(resized.values())
    mean, std = (file.get(f"image_{key}", 0.5) for key in ("mean", "std"))
    mean, std = (value if isinstance(value, Sequence) else [value] * 3 for value in (mean, std))
    return make(size, names.get(file.get("resample", 3), "bicubic"), short_side, mean, std)


def to_hf(section: Mapping[str, Any]) -> dict[str, Any]:
    """A `preprocessor_config.json`."""
    size = section["size"]
    resized = section["short_side"] or size
    return {
        "image_processor_type": "BeitImageProcessor",
        "do_resize": True,
        "size": {"height": resized, "width": resized},
        "resample": PILLOW[section["interpolation"]],
        "do_center_crop": bool(section["short_side"]),
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
    known = {key: file[key] for key in ("interpolation", "mean", "std") if key in file}
    squashed = file.get("crop_mode", "center") == "squash"
    return make(size, short_side=0 if squashed else math.floor(size / file.get("crop_pct", 0.9)), **known)


def to_timm(section: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """The `pretrained_cfg` of a timm `config.json`."""
    return {
        "input_size": [3, section["size"], section["size"]],
        "fixed_input_size": True,
        "interpolation": section["interpolation"],
        "crop_pct": section["size"] / (section["short_side"] or section["size"]),
        "crop_mode": "center" if section["short_side"] else "squash",
        "mean": list(section["mean"]),
        "std": list(section["std"]),
        "num_classes": classes,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def usual_masked(grid: int) -> int:
    """Masked patches of a square grid, in proportion to the official 75 of 14x14."""
    return max(1, round(75 * grid * grid / 196))


def to_ops(config: ConfigDict) -> str:
    """The same as `data.eval_ops` of a config, with what its task needs besides."""
    section, statistics = config.preprocess, ""
    size, method, short = section.size, section.interpolation, section.short_side
    for name, pair in STATISTICS.items():
        if pair == (section.mean, section.std):
            statistics = repr(name)
    statistics = statistics or f"{section.mean}, {section.std}"
    if config.task == "pretrain":
        grid = size // variants.parse(config.model.variant)[1]
        views = f"two_views_center({size}, {config.tokenizer.image_size}, {size / (short or size)})"
        masks = f"blockwise_mask({config.num_masked}, {max(1, round(16 * grid * grid / 196))}, {grid})"
        ending = f"normalize({statistics})|map_pixels('tokenizer_image')|{masks}"
        return f"decode|{views}|{ending}|keep('image', 'tokenizer_image', 'mask')"
    resize = f"resize_small({short}, {method!r})|central_crop({size})" if short else f"resize({size}, {method!r})"
    if config.task == "tokenizer":
        return f"decode|{resize}|map_pixels('image')|keep('image')"
    return f"decode|{resize}|normalize({statistics})|keep('image', 'label')"


def from_ops(ops: str, size: int) -> ConfigDict:
    """From `data.eval_ops`, as far as they are those that this project's configs write."""
    method = re.search(r"resize(?:_small)?\(\d+, '(\w+)'", ops)
    short, share = re.search(r"resize_small\((\d+)", ops), re.search(r"two_views_center\(\d+, \d+, ([\d.]+)\)", ops)
    statistics = re.search(r"normalize\((.*?)\)(?:\||$)", ops)
    mean, std = STATISTICS["inception"]
    if statistics:
        found = ast.literal_eval(f"({statistics[1]},)")
        mean, std = STATISTICS[found[0]] if isinstance(found[0], str) else found
    short_side = int(short[1]) if short else round(size / float(share[1])) if share else 0
    return make(size, method[1] if method else "bicubic", 0 if share and short_side == size else short_side, mean, std)


def preprocess(images: Sequence[Image.Image], section: Mapping[str, Any]) -> np.ndarray:
    """Pictures to the model's input, float32 `[b, size, size, 3]`.

    >>> preprocess([Image.new("L", (300, 200), 255)], official(224)).max()
    np.float32(1.0)
    """
    size, method = section["size"], Image.Resampling(PILLOW[section["interpolation"]])

    def one(image: Image.Image) -> np.ndarray:
        image = image.convert("RGB")
        if short := section["short_side"]:
            scale = short / min(image.size)
            image = image.resize([max(short, int(side * scale)) for side in image.size], method)
            left, top = ((side - size) // 2 for side in image.size)
            image = image.crop((left, top, left + size, top + size))
        else:
            image = image.resize((size, size), method)
        return np.asarray(image, np.float32) / 255

    pixels = np.stack([one(image) for image in images])
    return ((pixels - np.float32(section["mean"])) / np.float32(section["std"])).astype(np.float32)
