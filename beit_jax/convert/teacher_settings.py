"""What the files of settings beside a teacher's weights say: of transformers, open_clip and timm."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beit_jax.config import statistics
from beit_jax.convert import settings_limits
from beit_jax.convert.read_budget import excerpt
from beit_jax.errors import UserError
from beit_jax.models.variants import SMALLEST_EPSILON

MODEL_TYPES = {"clip": ("clip", "clip_vision_model"), "dino": ("vit",)}  # of transformers
GELU = {"clip": {"quick_gelu": "quick", "gelu": "exact"}, "dino": {"gelu": "auto"}}  # `hidden_act` and our key
# The defaults of transformers' `CLIPVisionConfig` and `ViTConfig`.
HF_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip": {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_attention_heads": 12},
    "dino": {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_attention_heads": 12},
}


def read_settings(weights: Path, kind: str, width: int) -> tuple[dict[str, Any], int | None]:
    """The settings beside a file of weights.

    Args:
      weights: the file.
      kind: of teacher.
      width: of the network.

    Returns:
      Values of keys of `config.teacher`, and the number of attention heads; None: nothing states it.

    Raises:
      UserError: the settings are of another model, or make no sense.
    """
    names = ("config.json", "preprocessor_config.json", "open_clip_config.json")
    config, preprocessor, open_clip = (settings_limits.read_settings(weights.with_name(name)) for name in names)
    found, heads = {}, None
    if "model_type" in config:
        found, heads = _of_transformers(config, kind, str(weights))
    elif isinstance(open_clip.get("model_cfg"), Mapping) and kind == "clip":
        found, heads = _of_open_clip(open_clip["model_cfg"], width)
    elif kind == "clip" and "quickgelu" in str(config.get("architecture", "")):
        found = {"gelu": "quick"}
    pixels = (
        (preprocessor, ("image_mean", "image_std")),
        (open_clip.get("preprocess_cfg"), ("mean", "std")),
        (config.get("pretrained_cfg"), ("mean", "std")),
    )
    for file, keys in pixels:
        if isinstance(file, Mapping) and all(key in file for key in keys):
            found["statistics"] = _statistics([file[key] for key in keys], str(weights))
            break
    return found, heads


def _of_transformers(config: Mapping[str, Any], kind: str, where: str) -> tuple[dict[str, Any], int]:
    if config["model_type"] not in MODEL_TYPES[kind]:
        raise UserError(
            f"{where} is a {excerpt(repr(config['model_type']))} by its config.json; expected one of "
            f"{', '.join(MODEL_TYPES[kind])} for teacher.kind={kind!r}"
        )
    vision = config.get("vision_config", config)
    stated = HF_DEFAULTS[kind] | dict(vision if isinstance(vision, Mapping) else {})
    gelu, eps, heads = (stated[key] for key in HF_DEFAULTS[kind])
    if not isinstance(gelu, str) or gelu not in GELU[kind]:
        raise UserError(f"{where} has hidden_act={gelu!r} in config.json; expected one of {', '.join(GELU[kind])}")
    if type(eps) not in (int, float) or not SMALLEST_EPSILON <= eps < 1:
        raise UserError(f"{where} has layer_norm_eps={eps!r} in config.json; expected a small number such as 1e-06")
    if type(heads) is not int or heads < 1:
        raise UserError(f"{where} has num_attention_heads={heads!r} in config.json; expected a number of at least 1")
    return {"gelu": GELU[kind][gelu], "norm_eps": float(eps)}, heads


def _of_open_clip(model: Mapping[str, Any], width: int) -> tuple[dict[str, Any], int | None]:
    vision = model.get("vision_cfg")
    head = vision.get("head_width", 64) if isinstance(vision, Mapping) else 64
    heads = width // head if type(head) is int and 0 < head <= width else None
    return {"gelu": "quick" if model.get("quick_gelu") is True else "exact"}, heads


def _statistics(pair: list[Any], where: str) -> str:
    try:
        return statistics.as_text(statistics.parse(", ".join(str(tuple(numbers)) for numbers in pair)))
    except (ValueError, TypeError):
        raise UserError(
            f"{where} has the statistics of pixels {excerpt(repr(pair))} in the settings beside it; expected a mean "
            "and a deviation of three channels"
        ) from None
