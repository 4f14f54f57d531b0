"""Between a checkpoint of another library and a config of ours."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from beit_jax.config import defaults
from beit_jax.convert import preprocessing
from beit_jax.convert.files import Files
from beit_jax.convert.names import OURS, place
from beit_jax.errors import UserError
from beit_jax.models import variants
from beit_jax.models.upernet import POOLED

HF_CLASSES = {
    "pretrain": "BeitForMaskedImageModeling",
    "classify": "BeitForImageClassification",
    "segment": "BeitForSemanticSegmentation",
}


def config_of(files: Files, where: str) -> ConfigDict:
    """The config of the model that a checkpoint holds, with a section `preprocess`.

    Raises:
      UserError: a model that this library does not have.
    """
    if files.layout == "dalle":
        return _dvae(files.state, where)
    state, settings = files.state, files.settings
    kinds = {"lm_head.weight": "pretrain", "decode_head.bottleneck.conv.weight": "segment"}
    task = next((task for name, task in kinds.items() if name in state), "classify")

    def get(name: str) -> np.ndarray | None:
        return state.get(place(name, 1, files.layout, task).names[0][0])

    if task == "classify" and get("head/kernel") is None:
        raise UserError(f"{where} has neither lm_head nor a classifier; expected a model with one of them")
    _check_settings(settings, where)
    cls, kernel, first_scale = get("encoder/cls_token"), get("encoder/patch_embed/kernel"), get(OURS + "gamma_1")
    if kernel is None or kernel.ndim != 4:
        raise UserError(f"{where} has no projection of patches; expected a vision transformer of BEiT's kind")
    table, shared = get(OURS + "attn/relative_position/table"), get("encoder/relative_position/table")
    if table is not None and shared is not None:
        raise UserError(f"{where} has both a shared table of relative positions and one per block; expected one kind")
    positions, patch, width = get("encoder/pos_embed"), kernel.shape[-1], cls.shape[-1]
    bias = shared if table is None else table
    depth = _depth(state, place(OURS + "norm1/scale", 1, files.layout, task).names[0][0])
    variant = variants.Variant(width, depth, bias.shape[-1] if bias is not None else _heads(settings, width))
    size = _image_size(settings, bias, positions, patch)

    config = segmentation() if task == "segment" else defaults(task)
    config.model.update(
        dict(
            variant=variants.name_of(variant, patch),
            image_size=size,
            absolute_positions=positions is not None,
            relative_position="shared" if shared is not None else "none" if table is None else "per_block",
            layer_scale=0.0 if first_scale is None else float(settings.get("layer_scale_init_value", 0.1)) or 0.1,
            drop_path=float(settings.get("drop_path_rate", config.model.drop_path)),
            norm_eps=float(settings.get("layer_norm_eps", 1e-6)),
        )
    )
    if task == "pretrain":
        config.num_masked = preprocessing.usual_masked(size // patch)
        config.tokenizer.vocab = get("lm_head/kernel").shape[0]
        config.tokenizer.image_size = size // patch * 2 ** (config.tokenizer.groups - 1)
    elif task == "classify":
        config.model.num_classes = get("head/kernel").shape[0]
        config.model.pooling = "mean" if get("fc_norm/scale") is not None else "cls"
    else:
        heads = (
            "decode_head/classifier/kernel",
            "decode_head/bottleneck/conv/kernel",
            "auxiliary_head/conv_0/conv/kernel",
        )
        names = ("num_classes", "channels", "auxiliary_channels")
        config.model.update({name: _rows(get(head), head, where) for name, head in zip(names, heads)})
        quarters = (3, 5, 7, 11) if depth == 12 else tuple(depth * i // 24 - 1 for i in (8, 12, 16, 24))
        config.model.layers = tuple(settings.get("out_indices", quarters))
    if task != "pretrain":
        labels = settings.get("id2label", {})
        config.labels = tuple(labels[key] for key in sorted(labels, key=int))
    with config.unlocked():
        config.preprocess = _preprocess(files, task, size)
    return config


def segmentation() -> ConfigDict:
    """The config of a segmentation network; that of no run, since training it is not here yet."""
    model = defaults("classify").model.to_dict()
    del model["pooling"], model["init_scale"]
    head = dict(channels=768, layers=(3, 5, 7, 11), auxiliary_channels=256)
    return ConfigDict(dict(task="segment", model=model | head, labels=())).lock()


def _rows(tensor: np.ndarray | None, name: str, where: str) -> int:
    if tensor is None:
        raise UserError(f"{where} has no {name}; expected both heads of UPerNet")
    return tensor.shape[0]


def _dvae(state: Mapping[str, np.ndarray], where: str) -> ConfigDict:
    groups = {name.split(".")[2] for name in state if name.startswith("encoder.blocks.group_")}
    blocks = {name.split(".")[3] for name in state if name.startswith("encoder.blocks.group_1.")}
    names = ("encoder.blocks.input.w", "encoder.blocks.output.conv.w", "decoder.blocks.input.w")
    first, last, codes = (state.get(name) for name in names)
    if first is None or last is None or codes is None:
        raise UserError(f"{where} lacks one of {', '.join(names)}; expected both halves of OpenAI's dVAE")
    config = defaults("tokenizer")
    config.model.update(
        dict(
            image_size=112,
            vocab=last.shape[0],
            hidden=first.shape[0],
            groups=len(groups),
            blocks_per_group=len(blocks),
            decoder_init=codes.shape[0],
        )
    )
    with config.unlocked():
        config.preprocess = preprocessing.make(112, "lanczos", 128, (-0.125,) * 3, (1.25,) * 3)  # map_pixels
    return config


def _check_settings(settings: Mapping[str, Any], where: str) -> None:
    for key, value in {"hidden_act": "gelu", "num_channels": 3, "use_mean_pooling": None}.items():
        if value is not None and settings.get(key, value) != value:
            raise UserError(f"{where} has {key}={settings[key]!r}; expected {value!r}, the only one known here")
    if settings.get("intermediate_size", 0) != 4 * settings.get("hidden_size", 0):
        raise UserError(f"{where} has intermediate_size={settings['intermediate_size']}; expected 4 times hidden_size")


def _heads(settings: Mapping[str, Any], width: int) -> int:
    known = {variant.width: variant.heads for variant in variants.VARIANTS.values()}
    return settings.get("num_attention_heads") or known.get(width) or max(width // 64, 1)


def _depth(state: Mapping[str, Any], first: str) -> int:
    before, after = first.split(".0.", 1)
    depth = 0
    while f"{before}.{depth}.{after}" in state:
        depth += 1
    return depth


def _image_size(settings: Mapping[str, Any], table: np.ndarray | None, positions: np.ndarray | None, patch: int) -> int:
    if table is not None:
        return (math.isqrt(table.shape[0] - 3) + 1) // 2 * patch
    if positions is not None:
        return math.isqrt(positions.shape[1] - 1) * patch
    found = settings.get("image_size", 224)
    return found if isinstance(found, int) else found[0]


def _preprocess(files: Files, task: str, size: int) -> ConfigDict:
    if files.layout == "hf":
        return preprocessing.from_hf(files.preprocessor, size)
    if task == "segment":
        return preprocessing.make(size, "bilinear", size, *preprocessing.STATISTICS["imagenet"])
    timm = files.settings.get("pretrained_cfg")
    return preprocessing.from_timm(timm, size) if timm else preprocessing.official(size)


def to_hf(config: ConfigDict) -> dict[str, Any]:
    """The `config.json` of a transformers model."""
    model, (variant, patch) = config.model, variants.parse(config.model.variant)
    out = {
        "architectures": [HF_CLASSES[config.task]],
        "model_type": "beit",
        "hidden_size": variant.width,
        "num_hidden_layers": variant.depth,
        "num_attention_heads": variant.heads,
        "intermediate_size": 4 * variant.width,
        "hidden_act": "gelu",
        "image_size": model.image_size,
        "patch_size": patch,
        "num_channels": 3,
        "layer_norm_eps": model.norm_eps,
        "layer_scale_init_value": model.layer_scale,
        "drop_path_rate": model.drop_path,
        "use_mask_token": config.task == "pretrain",
        "use_absolute_position_embeddings": model.absolute_positions,
        "use_relative_position_bias": model.relative_position == "per_block",
        "use_shared_relative_position_bias": model.relative_position == "shared",
        "torch_dtype": "float32",
    }
    if config.task == "pretrain":
        return out | {"vocab_size": config.tokenizer.vocab}
    if config.task == "segment":
        out |= {
            "out_indices": list(model.layers),
            "pool_scales": list(POOLED),
            "use_auxiliary_head": True,
            "auxiliary_channels": model.auxiliary_channels,
            "auxiliary_num_convs": 1,
        }
    labels = config.get("labels") or [f"LABEL_{i}" for i in range(model.num_classes)]
    names = {str(i): label for i, label in enumerate(labels)}
    return out | {
        "use_mean_pooling": model.get("pooling", "mean") == "mean",
        "id2label": names,
        "label2id": {label: int(i) for i, label in names.items()},
    }


def to_timm(config: ConfigDict) -> dict[str, Any]:
    """The `config.json` of a timm model; `timm.create_model("local-dir:FOLDER")` reads it."""
    model, (variant, patch) = config.model, variants.parse(config.model.variant)
    return {
        "architecture": "beit_large_patch16_224" if variant.depth == 24 else "beit_base_patch16_224",
        "num_classes": model.num_classes,
        "num_features": variant.width,
        "model_args": {
            "global_pool": "avg" if model.pooling == "mean" else "token",
            "img_size": model.image_size,
            "patch_size": patch,
            "embed_dim": variant.width,
            "depth": variant.depth,
            "num_heads": variant.heads,
            "init_values": model.layer_scale or None,
            "use_abs_pos_emb": model.absolute_positions,
            "use_rel_pos_bias": model.relative_position == "per_block",
            "use_shared_rel_pos_bias": model.relative_position == "shared",
        },
        "pretrained_cfg": preprocessing.to_timm(config.preprocess, model.num_classes),
    }
