"""Detects which model a checkpoint holds.

A `config.json` of transformers states it, and is believed: missing or additional tensors are then errors. In other
checkpoints, names and shapes of the tensors tell.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from beit_jax.config import defaults
from beit_jax.convert import preprocessing, settings
from beit_jax.convert.files import Files
from beit_jax.convert.layouts import detect_task, task_layout
from beit_jax.convert.names import OURS, counterpart
from beit_jax.errors import UserError
from beit_jax.models import variants

BLOCK = re.compile(r"^(?:backbone\.)?(?:blocks|beit\.encoder\.layer)\.(\d+)\.")
TIMM_ARGS = {"embed_dim": "width", "depth": "depth", "num_heads": "heads"}


def detect_config(files: Files, where: str) -> ConfigDict:
    """The config of the model that a checkpoint holds, with a section `preprocess`.

    Raises:
      UserError: a model that this library does not have, or settings that contradict each other.
    """
    if files.layout == "dalle":
        return _dvae(files.state, where)
    tensors = _Tensors(files, detect_task(files.state), where)
    layout, is_stated = task_layout(tensors.task), files.layout == "hf" and files.settings
    section = settings.from_hf(files.settings, where) if is_stated else _model_from_tensors(tensors)
    config = defaults(tensors.task)
    config.model.update({key: value for key, value in section.items() if key in config.model})
    layout.configure_head(config, tensors.need, files.settings, where)
    if "labels" in config:
        config.labels = settings.labels_of(files.settings, config.model.num_classes, where)
    size = config.model.image_size
    with config.unlocked():
        if files.layout == "hf":
            config.preprocess = preprocessing.from_hf(files.preprocessor, size)
        elif isinstance(files.settings.get("pretrained_cfg"), Mapping):
            config.preprocess = preprocessing.from_timm(files.settings["pretrained_cfg"], size)
        else:
            config.preprocess = layout.default_preprocess(size)
    return config


class _Tensors:
    """Shapes of a checkpoint's tensors, by our names."""

    def __init__(self, files: Files, task: str, where: str):
        self.task, self.where, self.state, self.settings = task, where, files.state, files.settings
        self._layout = files.layout
        self.depth = 1 + max((int(match[1]) for match in map(BLOCK.match, files.state) if match), default=-1)

    def shape(self, name: str, rank: int) -> tuple[int, ...] | None:
        """Shape of one of our parameters in the checkpoint, in the first block that has it; None where none has."""
        for names in counterpart(name, max(self.depth, 1), self._layout, self.task).names:
            if names[0] in self.state:
                shape = self.state[names[0]].shape
                if len(shape) != rank:
                    raise UserError(f"{self.where}: {names[0]} is of the shape {shape}, expected {rank} axes")
                return shape
        return None

    def need(self, name: str, rank: int) -> tuple[int, ...]:
        """The same; an error where it is not there."""
        shape = self.shape(name, rank)
        if shape is None:
            theirs = counterpart(name, 1, self._layout, self.task).names[0][0]
            raise UserError(f"{self.where} has no {theirs}; expected a complete BEiT model with its head")
        return shape


def _model_from_tensors(tensors: _Tensors) -> dict[str, Any]:
    """The section `model`, from names and shapes."""
    width, patch = tensors.need("encoder/cls_token", 3)[-1], tensors.need("encoder/patch_embed/kernel", 4)[-1]
    per_block = tensors.shape(OURS + "attn/relative_position/table", 2)
    shared = tensors.shape("encoder/relative_position/table", 2)
    positions, where = tensors.shape("encoder/pos_embed", 3), tensors.where
    if per_block and shared:
        raise UserError(f"{where} has both a shared table of relative positions and one per block; expected one kind")
    table = per_block or shared
    if not tensors.depth or not (table or positions):
        raise UserError(
            f"{where} has {tensors.depth} blocks and no positions; expected a vision transformer of BEiT's kind"
        )
    known = {variant.width: variant.heads for variant in variants.VARIANTS.values()}
    heads = table[1] if table else known.get(width) or max(width // 64, 1)
    grid = (math.isqrt(max(table[0] - 3, 0)) + 1) // 2 if table else math.isqrt(max(positions[1] - 1, 0))
    variant = variants.Variant(width, tensors.depth, heads)
    _check_timm(variant, tensors)
    return dict(
        variant=variants.name_of(variant, patch),
        image_size=max(grid, 1) * patch,
        absolute_positions=positions is not None,
        relative_position="shared" if shared else "per_block" if per_block else "none",
        layer_scale=0.1 if tensors.shape(OURS + "gamma_1", 1) else 0.0,
        pooling="mean" if tensors.shape("fc_norm/scale", 1) or tensors.shape("fc_norm/bias", 1) else "cls",
    )


def _check_timm(variant: variants.Variant, tensors: _Tensors) -> None:
    """Raises a UserError where a `config.json` of timm contradicts the tensors."""
    stated = tensors.settings.get("model_args")
    for key, ours in TIMM_ARGS.items():
        actual = getattr(variant, ours)
        if isinstance(stated, Mapping) and stated.get(key, actual) != actual:
            raise UserError(f"{tensors.where} has {key}={stated[key]!r} in config.json, but its tensors say {actual}")


def _dvae(state: Mapping[str, np.ndarray], where: str) -> ConfigDict:
    groups = {name.split(".")[2] for name in state if name.startswith("encoder.blocks.group_")}
    blocks = {name.split(".")[3] for name in state if re.match(r"encoder\.blocks\.group_1\.\w+\.", name)}
    names = {"hidden": "encoder.blocks.input.w", "vocab": "encoder.blocks.output.conv.w"}
    sizes = {}
    for key, name in (names | {"decoder_init": "decoder.blocks.input.w"}).items():
        if name not in state or state[name].ndim != 4:
            raise UserError(f"{where} has no {name} of 4 axes; expected both halves of OpenAI's dVAE")
        sizes[key] = state[name].shape[0]
    config = defaults("tokenizer")
    config.model.update(dict(image_size=112, groups=len(groups), blocks_per_group=len(blocks), **sizes))
    with config.unlocked():
        mean, std = (-0.125,) * 3, (1.25,) * 3  # what the op map_pixels does
        config.preprocess = preprocessing.preprocess_section(112, "lanczos", 128, True, mean, std)
    return config
