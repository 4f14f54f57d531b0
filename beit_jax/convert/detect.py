"""Which model a checkpoint holds.

A `config.json` of transformers says it, and is believed: what the tensors lack or have besides is then an error. Other
checkpoints are recognised by the names and shapes of their tensors.
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
from beit_jax.convert.names import OURS, place
from beit_jax.errors import UserError
from beit_jax.models import variants
from beit_jax.models.pixel_statistics import STATISTICS

BLOCK = re.compile(r"^(?:backbone\.)?(?:blocks|beit\.encoder\.layer)\.(\d+)\.")
TIMM_ARGS = {"embed_dim": "width", "depth": "depth", "num_heads": "heads"}


def config_of(files: Files, where: str) -> ConfigDict:
    """The config of the model that a checkpoint holds, with a section `preprocess`.

    Raises:
      UserError: a model that this library does not have, or settings that contradict each other.
    """
    if files.layout == "dalle":
        return _dvae(files.state, where)
    kinds = {"lm_head.weight": "pretrain", "decode_head.bottleneck.conv.weight": "segment"}
    tensors = _Tensors(files, next((task for name, task in kinds.items() if name in files.state), "classify"), where)
    stated = files.layout == "hf" and files.settings
    section = settings.from_hf(files.settings, where) if stated else _seen(tensors)
    config = defaults(tensors.task)
    config.model.update({key: value for key, value in section.items() if key in config.model})
    _heads(config, tensors, files.settings)
    size = config.model.image_size
    with config.unlocked():
        if files.layout == "hf":
            config.preprocess = preprocessing.from_hf(files.preprocessor, size)
        elif isinstance(files.settings.get("pretrained_cfg"), Mapping):
            config.preprocess = preprocessing.from_timm(files.settings["pretrained_cfg"], size)
        elif tensors.task == "segment":
            config.preprocess = preprocessing.make(size, "bilinear", size, True, *STATISTICS["imagenet"])
        else:
            config.preprocess = preprocessing.official(size)
    return config


class _Tensors:
    """Shapes of a checkpoint's tensors by our names."""

    def __init__(self, files: Files, task: str, where: str):
        self.task, self.where, self.state, self.settings = task, where, files.state, files.settings
        self._layout = files.layout
        self.depth = 1 + max((int(match[1]) for match in map(BLOCK.match, files.state) if match), default=-1)

    def shape(self, name: str, rank: int) -> tuple[int, ...] | None:
        """Of one of our parameters; of the first block that has it, where blocks do. None where it is not there."""
        for names in place(name, max(self.depth, 1), self._layout, self.task).names:
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
            theirs = place(name, 1, self._layout, self.task).names[0][0]
            raise UserError(f"{self.where} has no {theirs}; expected a whole BEiT model with its head")
        return shape


def _seen(tensors: _Tensors) -> dict[str, Any]:
    """The `model` section, from names and shapes."""
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
    stated = tensors.settings.get("model_args")
    for key, ours in TIMM_ARGS.items():
        found = getattr(variant, ours)
        if isinstance(stated, Mapping) and stated.get(key, found) != found:
            raise UserError(f"{tensors.where} has {key}={stated[key]!r} in config.json, but its tensors {found}")


def _heads(config: ConfigDict, tensors: _Tensors, stated: Mapping[str, Any]) -> None:
    """What the tensors of the heads tell."""
    model, (variant, patch) = config.model, variants.parse(config.model.variant)
    grid = model.image_size // patch
    if config.task == "pretrain":
        config.num_masked = preprocessing.usual_masked(grid)
        config.tokenizer.vocab = tensors.need("lm_head/kernel", 2)[0]
        config.tokenizer.image_size = grid * 2 ** (config.tokenizer.groups - 1)
        return
    if config.task == "classify":
        model.num_classes = tensors.need("head/kernel", 2)[0]
    else:
        model.num_classes = tensors.need("decode_head/classifier/kernel", 4)[0]
        model.channels = tensors.need("decode_head/bottleneck/conv/kernel", 4)[0]
        model.auxiliary_channels = tensors.need("auxiliary_head/conv_0/conv/kernel", 4)[0]
        official = [max(variant.depth * twelfths // 12 - 1, 0) for twelfths in (4, 6, 8, 12)]
        layers = stated.get("out_indices", official)
        if (
            not isinstance(layers, list)
            or len(layers) != 4
            or not all(type(i) is int and 0 <= i < variant.depth for i in layers)
        ):
            raise UserError(f"{tensors.where} has out_indices={layers!r}; expected four blocks of {variant.depth}")
        model.layers = tuple(layers)
    config.labels = settings.labels_of(stated, model.num_classes, tensors.where)


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
        config.preprocess = preprocessing.make(112, "lanczos", 128, True, (-0.125,) * 3, (1.25,) * 3)  # map_pixels
    return config
