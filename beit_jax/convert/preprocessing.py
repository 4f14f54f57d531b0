"""How images become a model's input: read from and written to the files of other libraries, and done with Pillow."""

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from beit_jax.errors import UserError
from beit_jax.models import variants
from beit_jax.models.pixel_statistics import STATISTICS

PILLOW = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # numbers in `preprocessor_config.json`


def official(size: int) -> ConfigDict:
    """Of the official evaluation: short side to 256/224 of the size, without a margin from 384 on; 0.5 and 0.5."""
    return make(size, resize=size if size >= 384 else round(size * 256 / 224))


def make(
    size: int,
    interpolation: str = "bicubic",
    resize: int = 0,
    keep_ratio: bool = True,
    mean: Sequence[float] = STATISTICS["inception"][0],
    std: Sequence[float] = STATISTICS["inception"][1],
) -> ConfigDict:
    """The section `preprocess` of a config.

    Args:
      size: side of the model's input in pixels.
      interpolation: filter of the resizing.
      resize: pixels of the resized image's shorter side, out of whose centre the square is cut; 0: the size.
      keep_ratio: whether its longer side stays longer, or the image is squashed to a square.
      mean: of each channel, pixels in [0, 1].
      std: of each channel.
    """
    return ConfigDict(
        dict(
            size=size,
            interpolation=interpolation,
            resize=resize or size,
            keep_ratio=keep_ratio,
            mean=tuple(mean),
            std=tuple(std),
        )
    )


def from_hf(file: Mapping[str, Any], size: int) -> ConfigDict:
    """From a `preprocessor_config.json`; what it leaves out is that of transformers' BEiT.

    Raises:
      UserError: a filter that is not known here.
    """
    names = {number: name for name, number in PILLOW.items()}
    resample = file.get("resample", PILLOW["bicubic"])
    if resample not in names:
        raise UserError(f"preprocessor_config.json has resample={resample}; expected one of {names}")
    for key, only in {"do_resize": True, "do_rescale": True, "do_normalize": True}.items():
        if file.get(key, only) is not only:
            raise UserError(
                f"preprocessor_config.json has {key}={file[key]!r}; expected {only}, no other is known here"
            )
    wanted = file.get("size", size) if file.get("do_center_crop", False) else size
    keep_ratio = isinstance(wanted, Mapping) and "shortest_edge" in wanted
    resize = wanted.get("shortest_edge" if keep_ratio else "height") if isinstance(wanted, Mapping) else wanted
    mean, std = (file.get(f"image_{key}", 0.5) for key in ("mean", "std"))
    mean, std = (value if isinstance(value, list | tuple) else [value] * 3 for value in (mean, std))
    if type(resize) is not int or resize < size or not all(type(n) in (int, float) for n in (*mean, *std)):
        raise UserError(
            f"preprocessor_config.json has size={wanted!r}, image_mean={mean!r}, image_std={std!r}; expected a size of "
            f"at least the model's {size} pixels, and numbers"
        )
    return make(size, names[resample], resize, keep_ratio, mean, std)


def to_hf(section: Mapping[str, Any]) -> dict[str, Any]:
    """A `preprocessor_config.json`."""
    size, resize = section["size"], section["resize"]
    return {
        "image_processor_type": "BeitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": resize} if section["keep_ratio"] else {"height": resize, "width": resize},
        "resample": PILLOW[section["interpolation"]],
        "do_center_crop": section["keep_ratio"] or resize != size,
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
    if known.get("interpolation") not in PILLOW:
        known["interpolation"] = "bicubic"  # timm's own default, also for "random"
    keep_ratio = file.get("crop_mode", "center") != "squash"
    return make(size, resize=math.floor(size / file.get("crop_pct", 0.9)), keep_ratio=keep_ratio, **known)


def to_timm(section: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """The `pretrained_cfg` of a timm `config.json`."""
    return {
        "input_size": [3, section["size"], section["size"]],
        "fixed_input_size": True,
        "interpolation": section["interpolation"],
        "crop_pct": section["size"] / section["resize"],
        "crop_mode": "center" if section["keep_ratio"] else "squash",
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
    size, method = section.size, section.interpolation
    for name, pair in STATISTICS.items():
        if pair == (section.mean, section.std):
            statistics = repr(name)
    statistics = statistics or f"{section.mean}, {section.std}"
    if config.task == "pretrain":
        grid = size // variants.parse(config.model.variant)[1]
        views = f"two_views_center({size}, {config.tokenizer.image_size}, {size / section.resize})"
        masks = f"blockwise_mask({config.num_masked}, {max(1, round(16 * grid * grid / 196))}, {grid})"
        ending = f"normalize({statistics})|map_pixels('tokenizer_image')|{masks}"
        return f"decode|{views}|{ending}|keep('image', 'tokenizer_image', 'mask')"
    if config.task == "segment":  # of published checkpoints, which are of ADE20K, where 0 is no class
        side, label_side = config.inference.side, config.inference.label_side
        whole = f"reduce_zero_label|resize_within({size}, {side})|normalize({statistics})"
        return (
            f"decode|{whole}|pad_for_evaluation({side}, {label_side})|keep('image', 'label_map', 'size', 'label_size')"
        )
    resize = f"{'resize_small' if section.keep_ratio else 'resize'}({section.resize}, {method!r})|central_crop({size})"
    if config.task == "tokenizer":
        return f"decode|{resize}|map_pixels('image')|keep('image')"
    return f"decode|{resize}|normalize({statistics})|keep('image', 'label')"


def from_ops(ops: str, size: int) -> ConfigDict:
    """From `data.eval_ops`; the official evaluation where they say nothing of it."""
    calls = dict(_calls(ops))
    found = calls.get("normalize") or ("inception",)
    mean, std = STATISTICS[found[0]] if isinstance(found[0], str) else map(_three, found)
    statistics = dict(mean=mean, std=std)
    for name in ("resize", "resize_small"):
        if name in calls:
            resize, method = (*calls[name], "bicubic")[:2]
            return make(size, method, resize, name == "resize_small", **statistics)
    if "resize_within" in calls:
        return make(size, "bilinear", size, True, **statistics)
    if "two_views_center" in calls:
        return make(size, resize=round(size / (*calls["two_views_center"], 0.875)[2]), **statistics)
    return make(size, resize=official(size).resize, **statistics)


def _three(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, Sequence) else (float(value),) * 3


def _calls(ops: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The ops of a valid spec with their arguments, in the order given."""
    for node in ast.walk(ast.parse(ops or "nothing", mode="eval")):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            yield node.func.id, tuple(ast.literal_eval(value) for value in values)


def preprocess(images: Sequence[Image.Image], section: Mapping[str, Any]) -> np.ndarray:
    """Pictures to the model's input, float32 `[b, size, size, 3]`.

    >>> preprocess([Image.new("L", (300, 200), 255)], official(224)).max()
    np.float32(1.0)
    """
    size, resize, method = section["size"], section["resize"], Image.Resampling(PILLOW[section["interpolation"]])

    def one(image: Image.Image) -> np.ndarray:
        image = image.convert("RGB")
        shape = (resize, resize)
        if section["keep_ratio"]:
            shape = tuple(max(resize, int(side * resize / min(image.size))) for side in image.size)
        image = image.resize(shape, method)
        left, top = (round((side - size) / 2) for side in image.size)
        image = image.crop((left, top, left + size, top + size))
        return np.asarray(image, np.float32) / 255

    pixels = np.stack([one(image) for image in images])
    return ((pixels - np.float32(section["mean"])) / np.float32(section["std"])).astype(np.float32)
