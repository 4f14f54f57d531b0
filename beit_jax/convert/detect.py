"""Detects which model a checkpoint holds.

A `config.json` beside the weights states it, and is believed: a checkpoint that contradicts it is an error. Otherwise
names and shapes of the tensors tell. What neither says is not guessed: it is asked for, or a line says what is assumed.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from beit_jax.config import defaults
from beit_jax.convert import preprocessing, settings
from beit_jax.convert.files import Files
from beit_jax.convert.heads import heads_of
from beit_jax.convert.layouts import CODES, detect_task, task_layout
from beit_jax.convert.names import ADDITIONAL_UNILM, OURS, counterpart
from beit_jax.errors import UserError
from beit_jax.models import variants
from beit_jax.models.pixel_statistics import STATISTICS, Statistics
from beit_jax.models.relative_position import relative_position_index

BLOCK = re.compile(r"^(?:backbone\.)?(?:blocks|beit\.encoder\.layer)\.(\d+)\.")
HF_EPSILON = settings.HF_DEFAULTS["layer_norm_eps"]
HEADS = ("classifier.", "head.")
EARLY = 3  # blocks before the last: published models of BEiT v2 have 9 of 12 and 21 of 24
# In the names of files, folders and architectures; a second run called beit_2 is none.
V2 = re.compile(r"(?<![a-z])beit(?:2|[-_]?v2)(?![0-9])", re.IGNORECASE)


def detect_config(
    files: Files,
    where: str,
    heads: int | None = None,
    num_classes: int | None = None,
    pixels: Statistics | None = None,
) -> ConfigDict:
    """The config of the model that a checkpoint holds, with a section `preprocess`.

    Args:
      files: of the checkpoint; lines about what is assumed are added to its notes.
      where: name of the checkpoint, for messages.
      heads: attention heads, for checkpoints that do not state them.
      num_classes: of the new head of an encoder without one.
      pixels: statistics of pixels, in place of those that files state.

    Raises:
      UserError: a model that this library does not have, settings that contradict each other or the tensors, or
        something that is neither stated nor given.
    """
    if pixels and (files.layout == "dalle" or CODES in files.state):
        raise UserError(f"{where} is a tokenizer, whose images are not normalized; leave out the statistics of pixels")
    if files.layout == "dalle":
        return _dvae(files.state, where)
    if CODES in files.state:
        return _vqkd(files, where, heads)
    tensors = _Tensors(files, detect_task(files.state), where)
    layout, is_stated = task_layout(tensors.task), files.layout == "hf" and files.settings
    section = settings.from_hf(files.settings, where) if is_stated else _model_from_tensors(tensors, files, heads)
    config = defaults(tensors.task)
    config.model.update({key: value for key, value in section.items() if key in config.model})
    own_heads = variants.parse(config.model.variant)[0].heads
    if heads not in (None, own_heads):
        raise UserError(f"{where} has {own_heads} attention heads by its config.json, and heads={heads} is given")
    _check_indices(files, config.model, where)
    if is_headless(files, config):
        _set_new_head(config, files, tensors, num_classes)
    else:
        layout.configure_head(config, tensors.need, files.settings, where)
        _configure_additional_blocks(config, files)
        if "labels" in config:
            config.labels = settings.labels_of(files.settings, config.model.num_classes, where)
    with config.unlocked():
        try:
            config.preprocess = _preprocess(files, layout, config.model.image_size, where, pixels)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    return config


def _configure_additional_blocks(config: ConfigDict, files: Files) -> None:
    """Sets what tensors tell of BEiT v2's second prediction; which block its blocks see is assumed."""
    number = len({name.split(".")[1] for name in files.state if name.startswith(ADDITIONAL_UNILM)})
    if not number:
        return
    depth = variants.parse(config.model.variant)[0].depth
    early = max(depth - EARLY, 1)
    config.model.update(
        dict(early_layer=early, head_layers=number, shared_head="cls_pt_lm_head.weight" not in files.state)
    )
    files.notes.append(
        f"it does not state of which block its {number} additional blocks see the patches; assumed is block {early}, "
        "as in the published models of 12 and 24 blocks (9 and 21)"
    )


def is_headless(files: Files, config: ConfigDict) -> bool:
    """Whether a checkpoint holds an encoder alone, which `detect_config` takes for that of a classifier."""
    return config.task == "classify" and not any(name.startswith(HEADS) for name in files.state)


def _set_new_head(config: ConfigDict, files: Files, tensors: "_Tensors", num_classes: int | None) -> None:
    if num_classes is None:
        raise UserError(
            f"{tensors.where} is an encoder without a head, and no classifier; to start from it, give it a new head: "
            "from_pretrained(..., num_classes=N), or python -m beit_jax.convert SRC DST --to beit_jax --num_classes N"
        )
    config.model.num_classes = num_classes
    if not tensors.shape("encoder/norm/scale", 1) and not files.settings:
        config.model.pooling = "mean"
    files.notes.append(f"it has no head; a new one of {num_classes} classes was made")


def _preprocess(files: Files, layout: Any, size: int, where: str, pixels: Statistics | None) -> ConfigDict:
    """The section `preprocess`: what is given, or what files beside the weights state, or what is assumed."""
    pretrained_cfg, is_stated = files.settings.get("pretrained_cfg"), True
    if files.preprocessor:
        section = preprocessing.from_hf(files.preprocessor, size)
    elif isinstance(pretrained_cfg, Mapping):
        section = preprocessing.from_timm(pretrained_cfg, size)
    else:
        is_hf = files.layout == "hf"
        section = preprocessing.from_hf({"size": size}, size) if is_hf else layout.default_preprocess(size)
        if is_stated := "statistics" in files.arguments:
            section.mean, section.std = STATISTICS[files.arguments["statistics"]]
    if pixels:
        section.mean, section.std = pixels
    elif not is_stated:
        kind = "most published checkpoints of its kind"
        if is_v2(files, where):
            kind, (section.mean, section.std) = "all published models of BEiT v2", STATISTICS["imagenet"]
        files.notes.append(
            f"it does not state the statistics of pixels; assumed are mean {section.mean} and std {section.std}, those "
            f"of {kind}, and a resizing to {section.resize} pixels; a file of settings beside it, or --statistics, "
            "would state others"
        )
    return section


def is_v2(files: Files, where: str) -> bool:
    """Whether weights are of BEiT v2 by their additional blocks or by a name; their other tensors are those of v1."""
    names = (Path(where).name, *(str(file.get("architecture", "")) for file in (files.settings, files.arguments)))
    return any(name.startswith(ADDITIONAL_UNILM) for name in files.state) or any(map(V2.search, names))


class _Tensors:
    """Shapes of a checkpoint's tensors, by our names."""

    def __init__(self, files: Files, task: str, where: str):
        self.task, self.where, self.state = task, where, files.state
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


def _model_from_tensors(tensors: _Tensors, files: Files, heads: int | None) -> dict[str, Any]:
    """The section `model`, from names and shapes, and what else states it."""
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
    size = patch * _grid(table, positions, where)
    mean = tensors.shape("fc_norm/scale", 1) or tensors.shape("fc_norm/bias", 1)
    pooling = "mean" if mean else "cls"
    found = dict(embed_dim=width, depth=tensors.depth, patch_size=patch, img_size=size, global_pool=pooling)
    heads = heads_of(files, found, table[1] if table else None, heads, where)
    if files.layout == "hf":
        files.notes.append(f"no config.json states the epsilon of its layer norms; assumed is {HF_EPSILON}")
    return dict(
        variant=variants.name_of(variants.Variant(width, tensors.depth, heads), patch),
        image_size=size,
        absolute_positions=positions is not None,
        relative_position="shared" if shared else "per_block" if per_block else "none",
        layer_scale=0.1 if tensors.shape(OURS + "gamma_1", 1) else 0.0,
        pooling=pooling,
        norm_eps=HF_EPSILON if files.layout == "hf" else 1e-6,
    )


def _grid(table: tuple[int, ...] | None, positions: tuple[int, ...] | None, where: str) -> int:
    """Patches along a side of the square image that a table of relative positions, or absolute positions, are for."""
    sides = {}
    if table:
        root = math.isqrt(max(table[0] - 3, 0))  # of (2 gh - 1) (2 gw - 1)
        sides[f"{table[0]} relative positions"] = (root + 1) // 2 if root % 2 and root**2 == table[0] - 3 else None
    if positions:
        root = math.isqrt(max(positions[1] - 1, 0))
        sides[f"{positions[1]} positions"] = root if root and root**2 == positions[1] - 1 else None
    for found, side in sides.items():
        if side is None:
            raise UserError(f"{where} has {found}, which no square image has; expected a model of square images")
    if len(set(sides.values())) > 1:
        raise UserError(f"{where} has {' and '.join(sides)}, which are of two sizes of images; expected one")
    return next(iter(sides.values()))


def _check_indices(files: Files, model: ConfigDict, where: str) -> None:
    """Raises a UserError if the indices of relative positions are not those of a square grid, which shapes may hide."""
    side = model.image_size // variants.parse(model.variant)[1]
    expected = relative_position_index((side, side)) if files.indices else None
    for name, index in files.indices.items():
        if not np.array_equal(index, expected):
            raise UserError(
                f"{where} has a {name} that is not of {side}x{side} patches; expected a model of square images of "
                f"{model.image_size} pixels"
            )


def _vqkd(files: Files, where: str, heads: int | None) -> ConfigDict:
    """A tokenizer of BEiT v2."""
    state = files.state

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in state or state[name].ndim != rank:
            raise UserError(f"{where} has no {name} of {rank} axes; expected a complete VQ-KD tokenizer")
        return state[name].shape

    def depth(network: str) -> int:
        return len({name.split(".")[2] for name in state if name.startswith(f"{network}.blocks.")})

    (width, _, patch, _), (codes, code_width) = shape("encoder.patch_embed.proj.weight", 4), shape(CODES, 2)
    size = patch * math.isqrt(shape("encoder.pos_embed", 3)[1] - 1)
    found = dict(embed_dim=width, depth=depth("encoder"), patch_size=patch, img_size=size)
    variant = variants.Variant(width, depth("encoder"), heads_of(files, found, None, heads, where))
    config = defaults("tokenizer", "vqkd")
    config.model.update(
        variant=variants.name_of(variant, patch),
        image_size=size,
        vocab=codes,
        code_width=code_width,
        decoder_depth=depth("decoder"),
        target_width=shape("decode_task_layer.2.weight", 2)[0],
    )
    with config.unlocked():
        config.preprocess = preprocessing.preprocess_section(
            size, resize=round(size / 0.875), mean=(0.0,) * 3, std=(1.0,) * 3
        )
    return config


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
