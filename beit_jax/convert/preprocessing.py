"""How images become a model's input: read from and written to the files of other libraries, and done with Pillow."""

import ast
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from beit_jax.config import statistics
from beit_jax.config.op_arguments import arguments_of
from beit_jax.config.op_sizes import CROP_FRACTION, fill_in_sizes, short_side
from beit_jax.convert.picture import WHITE, Background, resized_centre, to_planes
from beit_jax.errors import UserError
from beit_jax.models.image_size import ImageSize, sides, simplest
from beit_jax.models.pixel_statistics import STATISTICS

PILLOW = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # numbers in `preprocessor_config.json`
HF_SIZE = {"height": 224, "width": 224}  # the default of transformers' `BeitImageProcessor`
TIMM_DEFAULTS = {  # of timm's `PretrainedCfg`
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": STATISTICS["imagenet"][0],
    "std": STATISTICS["imagenet"][1],
}


def official_section(size: ImageSize) -> ConfigDict:
    """The official evaluation: short side to size / 0.875, to the size itself from 384 on; mean and std 0.5."""
    return preprocess_section(size, resize=short_side(size))


def preprocess_section(
    size: ImageSize,
    interpolation: str = "bicubic",
    resize: ImageSize = 0,
    keep_ratio: bool = True,
    mean: Sequence[float] = STATISTICS["inception"][0],
    std: Sequence[float] = STATISTICS["inception"][1],
    background: Background = WHITE,
    exif_transpose: bool = True,
    channels: int = 3,
    max_value: float = 0.0,
) -> ConfigDict:
    """The section `preprocess` of a config.

    Args:
      size: side of the model's input in pixels, or height and width.
      interpolation: filter of the resizing.
      resize: pixels of the resized image's shorter side, from whose centre the square is cropped; 0: the size.
      keep_ratio: whether the aspect ratio is kept, or the image is squashed to a square.
      mean: of each channel, pixels in [0, 1].
      std: of each channel.
      background: what is seen through transparent pixels, see `picture.to_rgb`.
      exif_transpose: whether images are turned as their EXIF orientation says.
      channels, max_value: of the input, as in `data` of a config.
    """
    return ConfigDict(
        dict(
            size=size,
            interpolation=interpolation,
            resize=resize or size,
            keep_ratio=keep_ratio,
            mean=tuple(mean),
            std=tuple(std),
            background=tuple(background) if isinstance(background, list) else background,
            exif_transpose=exif_transpose,
            channels=channels,
            max_value=max_value,
        )
    )


def for_channels(section: ConfigDict, channels: int) -> ConfigDict:
    """A section `preprocess` for images of other channels: of mean and deviation 0.5, unless all channels have one."""
    if channels == section.channels:
        return section
    mean, std = ((n[0] if len(set(n)) == 1 else 0.5,) * channels for n in (section.mean, section.std))
    return ConfigDict({**section, "mean": mean, "std": std, "channels": channels})


def at_size(section: ConfigDict, size: ImageSize) -> ConfigDict:
    """A section `preprocess` for images of another size, as the official fine-tuning changes it."""
    resize = official_section(size).resize if section.keep_ratio else _squashed(section, size)
    return ConfigDict({**section, "size": size, "resize": resize})


def _squashed(section: ConfigDict, size: ImageSize) -> ImageSize:
    every = zip(sides(size), sides(section.resize), sides(section.size), strict=True)
    return simplest(*(round(side * resize / old) for side, resize, old in every))


def from_hf(file: Mapping[str, Any], size: int) -> ConfigDict:
    """From a `preprocessor_config.json`; what it omits is as in transformers' BEiT.

    Raises:
      UserError: a setting that this library does not have.
    """
    names = {number: name for name, number in PILLOW.items()}
    resample = file.get("resample", PILLOW["bicubic"])
    if resample not in names:
        raise UserError(f"preprocessor_config.json has resample={resample}; expected one of {names}")
    for key, only in {"do_resize": True, "do_rescale": True, "do_normalize": True}.items():
        if file.get(key, only) is not only:
            raise UserError(f"preprocessor_config.json has {key}={file[key]!r}; expected {only}, no other is known")
    factor = file.get("rescale_factor", 1 / 255)
    if type(factor) not in (int, float) or not math.isclose(factor, 1 / 255, rel_tol=1e-4):
        raise UserError(f"preprocessor_config.json has rescale_factor={factor!r}; expected 1/255")
    mean, std = (_channels(file, f"image_{key}", 0.5, "preprocessor_config.json") for key in ("mean", "std"))
    resize, keep_ratio = _hf_resize(file, size)
    return preprocess_section(size, names[resample], resize, keep_ratio, mean, std)


def _hf_resize(file: Mapping[str, Any], size: int) -> tuple[int, bool]:
    """The side to which images are resized, and whether their aspect ratio is kept.

    Raises:
      UserError: what is resized and cropped is not of the model's size.
    """
    stated, cropped = file.get("size", HF_SIZE), file.get("do_center_crop", False)
    sides = stated
    if not isinstance(stated, Mapping):
        sides = {"shortest_edge" if file.get("default_to_square") is False else "height": stated}
    keep_ratio = "shortest_edge" in sides
    resize = sides.get("shortest_edge" if keep_ratio else "height")
    crop = file.get("crop_size", HF_SIZE) if cropped else size
    crops = [*crop.values()] if isinstance(crop, Mapping) else [crop]
    square = keep_ratio or sides.get("width", resize) == resize
    fits = resize >= size and (cropped or (resize == size and not keep_ratio)) if type(resize) is int else False
    if not fits or not square or not crops or any(side != size for side in crops):
        raise UserError(
            f"preprocessor_config.json has size={stated!r} and {f'crop_size={crop!r}' if cropped else 'no crop'}; "
            f"expected a size of at least the model's {size} pixels, and images of {size}x{size} pixels"
        )
    return resize, keep_ratio


def _channels(file: Mapping[str, Any], key: str, default: Any, where: str) -> list[float]:
    """A number for each of three channels.

    Raises:
      UserError: it is something else.
    """
    value = file.get(key, default)
    values = value if isinstance(value, list | tuple) else [value] * 3
    numbers = [n for n in values if type(n) in (int, float) and math.isfinite(n) and (n > 0 or "mean" in key)]
    if len(values) != 3 or len(numbers) != 3:
        raise UserError(f"{where} has {key}={value!r}; expected a number for each of three channels")
    return list(values)


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
    """From the `pretrained_cfg` of a timm `config.json`; what it omits is as in timm.

    Raises:
      UserError: a setting that this library does not have.
    """
    stated = {key: file.get(key, default) for key, default in TIMM_DEFAULTS.items()}
    known = {"interpolation": tuple(PILLOW), "crop_mode": ("center", "squash")}
    for key, values in known.items():
        if stated[key] not in values:
            raise UserError(f"config.json has {key}={stated[key]!r}; expected {' or '.join(values)}")
    crop = stated["crop_pct"]
    if type(crop) not in (int, float) or not 0 < crop <= 1:
        raise UserError(f"config.json has crop_pct={crop!r}; expected a number above 0 and at most 1")
    mean, std = (_channels(stated, key, None, "config.json") for key in ("mean", "std"))
    keep_ratio = stated["crop_mode"] == "center"
    return preprocess_section(size, stated["interpolation"], math.floor(size / crop), keep_ratio, mean, std)


def crop_fraction(size: int, resize: int) -> float:
    """The fraction `size / resize`, from which timm and the official code get `resize` back, rounded down."""
    fraction = size / resize
    return fraction if int(size / fraction) == resize else math.nextafter(fraction, 0)


def to_timm(section: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """The `pretrained_cfg` of a timm `config.json`."""
    return {
        "input_size": [3, section["size"], section["size"]],
        "fixed_input_size": True,
        "interpolation": section["interpolation"],
        "crop_pct": crop_fraction(section["size"], section["resize"]),
        "crop_mode": "center" if section["keep_ratio"] else "squash",
        "mean": list(section["mean"]),
        "std": list(section["std"]),
        "num_classes": classes,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def normalize_op(section: ConfigDict) -> str:
    """The op of `data.ops` that normalizes as a section `preprocess` says."""
    names = (repr(name) for name, pair in STATISTICS.items() if pair == (section.mean, section.std))
    return f"normalize({next(names, f'{section.mean}, {section.std}')})"


def decode_op(section: ConfigDict) -> str:
    """The op of `data.ops` that decodes images as a section `preprocess` says."""
    defaults = section.background == WHITE and section.exif_transpose
    given = [] if defaults else [str(section.background), str(section.exif_transpose)]
    given += [f"channels={section.channels}"] * (section.channels != 3)
    given += [f"max_value={section.max_value!r}"] * (section.max_value > 0)
    return f"decode({', '.join(given)})" if given else "decode"


def resized_ops(section: ConfigDict) -> str:
    """The ops of `data.ops` that decode, resize and crop as a section `preprocess` says."""
    resize = "resize_small" if section.keep_ratio else "resize"
    return f"{decode_op(section)}|{resize}({section.resize}, {section.interpolation!r})|central_crop({section.size})"


def from_config(config: ConfigDict) -> ConfigDict:
    """From the `data.eval_ops` of a run; what they do not say is as in the official evaluation."""
    return from_ops(fill_in_sizes(config).data.eval_ops, config.model.image_size)


def from_ops(ops: str, size: ImageSize) -> ConfigDict:
    """From `data.eval_ops` with numbers for all sizes; what they do not say is as in the official evaluation."""
    decoding = _given(ops, "decode") or {}
    mean, std = statistics.of_ops(ops) or STATISTICS["inception"]
    if len(set(zip(mean, std, strict=True))) == 1:
        mean, std = statistics.spread((mean, std), decoding.get("channels", 3))
    known = dict(mean=mean, std=std, **decoding)
    for name in ("resize", "resize_small"):
        if given := _given(ops, name):
            return preprocess_section(
                size, given.get("method", "bicubic"), given["size"], name == "resize_small", **known
            )
    if "resize_within" in ops:
        return preprocess_section(size, "bilinear", size, True, **known)
    if given := _given(ops, "two_views_center"):
        resize = simplest(*(int(side / given.get("fraction", CROP_FRACTION)) for side in sides(size)))
        return preprocess_section(size, resize=resize, **known)
    return preprocess_section(size, resize=official_section(size).resize, **known)


def _given(ops: str, name: str) -> dict[str, Any] | None:
    """The arguments that a chain gives to an op; None if it has no such op."""
    given = arguments_of(ops, name)
    return None if given is None else {key: ast.literal_eval(value) for key, value in given.items()}


def preprocess(images: Sequence[Image.Image | np.ndarray], section: Mapping[str, Any]) -> np.ndarray:
    """Images to the model's input, float32 `[b, h, w, c]`, as the input pipeline makes it of files and arrays.

    Images are turned as their EXIF orientation says, and laid on white, unless the section says otherwise. They are
    resized as by Pillow 9.5 to 12, whichever is installed: the published models were evaluated with one of these.
    Arrays `[h, w, c]` are images of any channels, uint8, uint16 or float32.

    Examples:
      >>> _, _, config = beit_jax.from_pretrained("runs/finetune")
      >>> beit_jax.preprocess([Image.open("cat.png")], config.preprocess).shape
      (1, 16, 16, 3)
    """
    size, resize = sides(section["size"]), sides(section["resize"])
    method = Image.Resampling(PILLOW[section["interpolation"]])

    def one(image: Image.Image | np.ndarray) -> np.ndarray:
        planes, white = to_planes(image, section)
        width, height = planes[0].size
        shape = resize[::-1]
        if section["keep_ratio"]:  # as the op `resize_small`
            new, old = max((resize[0], height), (resize[1], width), key=lambda pair: pair[0] / pair[1])
            shape = (width * new // old, height * new // old)
        resized = [np.asarray(resized_centre(plane, shape, size, method), np.float32) for plane in planes]
        return np.dstack(resized) / np.float32(white)

    pixels = np.stack([one(image) for image in images])
    return ((pixels - np.float32(section["mean"])) / np.float32(section["std"])).astype(np.float32)
