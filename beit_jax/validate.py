"""Checks of a config that need no device and no data: made before anything costs time."""

import difflib
import math
import re
from typing import Any

from ml_collections import ConfigDict

from beit_jax.config import TASKS, defaults, flatten
from beit_jax.errors import UserError
from beit_jax.models import variants, vit
from beit_jax.tasks import layers

AT_LEAST_ONE = (
    *("batch_size", "keep", "log_every", "save_every", "data.shuffle_buffer", "data.repeats"),
    *("optimizer.accumulate", "model.image_size", "model.unroll", "model.channels", "model.auxiliary_channels"),
    *("inference.side", "inference.label_side"),
)
POSITIVE = ("model.norm_eps", "knn.temperature", "optimizer.eps", "elbo.temperature_start", "elbo.temperature_end")
NOT_NEGATIVE = (
    *("keep_every", "max_bad_steps", "stall_factor"),
    *("epochs", "steps", "eval_every", "picture_every", "seed", "data.labels_per_class", "data.subset_seed"),
    *("optimizer.lr", "optimizer.min_lr", "optimizer.warmup_epochs", "optimizer.warmup_steps", "optimizer.decay_steps"),
    *("optimizer.weight_decay", "optimizer.clip_norm", "model.layer_scale", "model.num_classes"),
    *(
        "mixup",
        "cutmix",
        "knn.k",
        "auxiliary_weight",
        "inference.stride",
        "model.init_scale",
        "elbo.kl_weight",
        "elbo.kl_steps",
        "elbo.temperature_steps",
    ),
)
FRACTIONS = (
    "data.max_bad_fraction",
    "optimizer.b1",
    "optimizer.b2",
    "optimizer.ema",
    "model.drop_path",
    "model.dropout",
    "label_smoothing",
    "device_augment.jitter",
)
REGULAR_EXPRESSIONS = ("init_fresh", "init_drop")
SOURCES = ("init_from", "resume_from", "tokenizer.init_from", "encoder.init_from", "tokens")
CHOICES = {
    "init_resize": ("official", "timm", "hf"),
    "model.relative_position": ("none", "shared", "per_block"),
    "model.pooling": ("mean", "cls"),
    "optimizer.schedule": ("cosine", "linear"),
    "model.head": ("upernet", "setr_pup"),
    "loss_denominator": ("all", "valid"),
    "features": ("cls_mean", "cls", "mean"),
    "target": ("tokens", "pixels"),
    "loss_on": ("masked", "all"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "tokenizer.dtype": ("auto", "float32", "bfloat16"),
    "device_augment.statistics": ("", "imagenet", "inception"),
    "model.remat": ("auto", "none", "full", *vit.REMAT_POLICIES),
}


def validate(config: ConfigDict) -> None:
    """Checks a config, or every stage of a recipe.

    Raises:
      UserError: the first thing that is wrong, with the key, what was found and what is expected.
    """
    if "stages" not in config:
        _validate_stage(config)
        return
    seen = []
    for name in config.stages:
        if name not in config:
            raise UserError(f"stage {name!r} has no config; expected a key {name!r} beside `stages`")
        try:
            _validate_stage(config[name])
            for key in SOURCES:
                _check_stage_reference(key, flatten(config[name]).get(key, ""), seen)
        except UserError as error:
            raise UserError(f"stage {name}: {error}") from error
        seen.append(name)


def _check_stage_reference(key: str, reference: str, earlier: list[str]) -> None:
    scheme, _, stage = reference.partition(":")
    if scheme == "stage" and stage not in earlier:
        raise UserError(f"{key}={reference!r} names no earlier stage; there are: {', '.join(earlier) or 'none'}")


def _validate_stage(config: ConfigDict) -> None:
    _check_keys(config)
    flat = flatten(config)
    _check_ranges(flat)
    _check_texts(flat)
    if config.epochs and config.steps:
        raise UserError(f"epochs={config.epochs:g} and steps={config.steps}: give one of them, and not both")
    if config.batch_size % config.optimizer.accumulate:
        raise UserError(
            f"batch_size={config.batch_size} is not divisible by optimizer.accumulate={config.optimizer.accumulate}"
        )
    rows = config.batch_size // config.optimizer.accumulate
    if rows % 2 and (config.get("mixup", 0) or config.get("cutmix", 0)):
        raise UserError(
            f"batch_size={config.batch_size} with optimizer.accumulate={config.optimizer.accumulate} makes batches of "
            f"{rows} images; mixup and cutmix mix pairs: expected an even number"
        )
    for key in ("ops", "eval_ops"):
        if not config.data[key]:
            raise UserError(f"data.{key} is empty; expected operations such as 'decode|resize(224)'")
    if config.task == "tokenizer":
        _check_dvae("model", config.model)
    else:
        _check_vit(config)


def _check_keys(config: ConfigDict) -> None:
    """Every key of the task, no other, and each of its default's type."""
    task = config.get("task", None)
    if task not in TASKS:
        raise UserError(f"task={task!r} is unknown; expected one of {', '.join(TASKS)}")
    found, expected = flatten(config), flatten(defaults(task))
    for key in found:
        if key not in expected:
            near = difflib.get_close_matches(key, expected, 1)
            raise UserError(f"unknown config key {key!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    for key, default in expected.items():
        if key not in found:
            raise UserError(f"config key {key!r} is missing; its default is {default!r}")
        if not _same_type(found[key], default):
            raise UserError(f"{key}={found[key]!r} is {type(found[key]).__name__}; expected {type(default).__name__}")


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is type(default)


def _check_ranges(flat: dict[str, Any]) -> None:
    for key in AT_LEAST_ONE:
        if key in flat and flat[key] < 1:
            raise UserError(f"{key}={flat[key]!r}; expected at least 1")
    for key in POSITIVE:
        if key in flat and flat[key] <= 0:
            raise UserError(f"{key}={flat[key]!r}; expected above 0")
    for key in NOT_NEGATIVE:
        if key in flat and flat[key] < 0:
            raise UserError(f"{key}={flat[key]!r}; expected at least 0")
    for key in FRACTIONS:
        if key in flat and not 0 <= flat[key] < 1:
            raise UserError(f"{key}={flat[key]!r}; expected at least 0 and below 1")
    for key, choices in CHOICES.items():
        if key in flat and flat[key] not in choices:
            raise UserError(f"{key}={flat[key]!r}; expected one of {', '.join(choices)}")
    for key in ("mix_probability", "mix_switch", "mesh.max_replicated"):
        if key in flat and not 0 <= flat[key] <= 1:
            raise UserError(f"{key}={flat[key]!r}; expected between 0 and 1")
    for key in ("optimizer.layer_decay", "data.label_fraction"):
        if not 0 < flat[key] <= 1:
            raise UserError(f"{key}={flat[key]!r}; expected above 0 and at most 1")
    if flat["data.labels_per_class"] and flat["data.label_fraction"] < 1:
        raise UserError(
            f"data.labels_per_class={flat['data.labels_per_class']} and data.label_fraction="
            f"{flat['data.label_fraction']:g}: give one of them, and not both"
        )
    for axis in ("data", "fsdp", "tensor", "slices"):
        if flat[f"mesh.{axis}"] < 1 and flat[f"mesh.{axis}"] != -1:
            told = "as many as the devices say" if axis == "slices" else "the devices that are left"
            raise UserError(f"mesh.{axis}={flat[f'mesh.{axis}']!r}; expected at least 1, or -1 for {told}")


def _check_texts(flat: dict[str, Any]) -> None:
    for key in REGULAR_EXPRESSIONS:
        for pattern in flat[key]:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise UserError(f"{key} holds {pattern!r}, which is no regular expression: {error}") from error
    for key in SOURCES:
        if "://" in flat.get(key, ""):
            raise UserError(
                f"{key}={flat[key]!r} is a URL; expected a folder: mount the bucket, and give its path here"
            )


def _check_dvae(name: str, dvae: ConfigDict) -> int:
    """Returns the side of the token grid."""
    for key in ("vocab", "hidden", "groups", "blocks_per_group", "decoder_init"):
        if dvae[key] < 1:
            raise UserError(f"{name}.{key}={dvae[key]}; expected at least 1")
    stride = 2 ** (dvae.groups - 1)
    if dvae.image_size % stride:
        raise UserError(
            f"{name}.image_size={dvae.image_size} is not divisible by the tokenizer's stride {stride} "
            f"(2^(groups - 1), groups={dvae.groups}); choose a multiple of {stride}"
        )
    return dvae.image_size // stride


def _check_vit(config: ConfigDict) -> None:
    _, patch = variants.parse(config.model.variant)
    if config.model.image_size % patch:
        raise UserError(
            f"model.image_size={config.model.image_size} is not divisible by the patch size {patch} of "
            f"{config.model.variant}; choose a multiple of {patch}"
        )
    if config.task == "pretrain":
        _check_pretraining(config, config.model.image_size // patch)
    if config.task == "probe":
        _check_probe(config)
    if config.task == "segment":
        _check_segment(config, config.model.image_size // patch)


def _check_segment(config: ConfigDict, grid: int) -> None:
    model, inference, (variant, patch) = config.model, config.inference, variants.parse(config.model.variant)
    outside = [layer for layer in model.layers if type(layer) is not int or not 0 <= layer < variant.depth]
    if outside:
        raise UserError(
            f"model.layers={model.layers!r} has {outside[0]!r}; expected blocks 0 to {variant.depth - 1} of "
            f"{model.variant}"
        )
    if model.head == "upernet" and (len(model.layers) != 4 or grid % 2):
        raise UserError(
            f"upernet makes its pyramid of four layers and an even grid of patches; found model.layers="
            f"{model.layers!r} and {grid}x{grid} patches"
        )
    if model.head == "setr_pup" and (patch < 2 or patch & (patch - 1)):
        raise UserError(
            f"setr_pup doubles the resolution up to the image's; found patches of {patch}, expected 2, 4, 8, ..."
        )
    if inference.stride > model.image_size:
        raise UserError(
            f"inference.stride={inference.stride} leaves pixels between windows of model.image_size={model.image_size}"
        )
    if not inference.ratios or not all(type(ratio) in (int, float) and ratio > 0 for ratio in inference.ratios):
        raise UserError(f"inference.ratios={inference.ratios!r}; expected numbers above 0, such as (0.75, 1.0)")


def _check_probe(config: ConfigDict) -> None:
    variant, _ = variants.parse(config.model.variant)
    layers.chosen(config.layers, variant.depth)
    if not config.encoder.init_from:
        raise UserError(
            "encoder.init_from is empty; give the run whose encoder is probed, or random for one that is not trained"
        )


def _check_pretraining(config: ConfigDict, grid: int) -> None:
    if not 1 <= config.num_masked <= grid * grid:
        raise UserError(f"num_masked={config.num_masked}; expected between 1 and the {grid * grid} patches")
    if config.loss_on == "all" and config.num_masked != grid * grid:
        raise UserError(
            f"loss_on=all counts all {grid * grid} patches, but num_masked={config.num_masked} lets the head see "
            f"fewer; set num_masked={grid * grid}"
        )
    if config.target == "tokens":
        _check_tokenizer(config, grid)
    elif config.tokens:
        raise UserError(f"tokens={config.tokens!r}, but target=pixels predicts no tokens; leave one of them out")


def _check_tokenizer(config: ConfigDict, grid: int) -> None:
    patch, tokens = config.model.image_size // grid, _check_dvae("tokenizer", config.tokenizer)
    if grid != tokens:
        raise UserError(
            f"the tokenizer's grid is {tokens}x{tokens} (tokenizer.image_size={config.tokenizer.image_size}) but the "
            f"patch grid is {grid}x{grid} (model.image_size={config.model.image_size}, patch {patch}); set "
            f"tokenizer.image_size={grid * 2 ** (config.tokenizer.groups - 1)}"
        )
    if config.tokens and config.device_augment.statistics:
        raise UserError(
            f"tokens={config.tokens} with device_augment.statistics={config.device_augment.statistics}: the step changes the "
            "colours that stored tokens are of; leave one of them out, such as fast=True of configs/pretrain.py"
        )
    if not config.tokenizer.init_from:
        raise UserError(
            "tokenizer.init_from is empty; pre-training needs a trained tokenizer: give the folder of a tokenizer run "
            "(python -m beit_jax.train --config configs/tokenizer.py --workdir ...)"
        )
