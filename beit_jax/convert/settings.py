"""The files of settings that other libraries write beside the weights."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from beit_jax.config import class_names
from beit_jax.convert import preprocessing
from beit_jax.convert.layouts import task_layout
from beit_jax.errors import UserError
from beit_jax.models import variants
from beit_jax.models.upernet import POOLED

# The defaults of transformers' `BeitConfig`.
HF_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-12,
    "layer_scale_init_value": 0.1,
    "drop_path_rate": 0.1,
    "use_absolute_position_embeddings": False,
    "use_relative_position_bias": False,
    "use_shared_relative_position_bias": False,
    "use_mean_pooling": True,
}

# Settings that have one value here; in files, null stands for it too.
ONLY = {
    "hidden_act": "gelu",
    "num_channels": 3,
    "problem_type": "single_label_classification",
    "pool_scales": list(POOLED),
}
# Of ImageNet-22k's classes, the published classifiers lack two, and their files leave out these numbers.
IMAGENET_22K = [number for number in range(21843) if number not in (9205, 15027)]


def from_hf(file: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys of the section `model` that a `config.json` determines.

    Raises:
      UserError: a value of another type, or a model that this library does not have.
    """
    stated = {key: file.get(key, default) for key, default in HF_DEFAULTS.items()}
    for key, default in HF_DEFAULTS.items():
        value = stated[key]
        if key in ("image_size", "patch_size") and isinstance(value, list) and len(set(map(str, value))) == 1:
            stated[key] = value = value[0]
        if not (type(value) is type(default) or (type(default) is float and type(value) is int)):
            raise UserError(f"{where} has {key}={value!r} in config.json; expected a value such as {default!r}")
    for key, only in (ONLY | {"intermediate_size": 4 * stated["hidden_size"]}).items():
        value = file.get(key, HF_DEFAULTS.get(key))
        if value not in (None, only):
            raise UserError(f"{where} has {key}={value!r} in config.json; expected {only!r}: no other is known here")
    per_block, shared = stated["use_relative_position_bias"], stated["use_shared_relative_position_bias"]
    if per_block and shared:
        raise UserError(f"{where} has both a shared table of relative positions and one per block; expected one kind")
    sizes = [stated[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")]
    if min(sizes) < 1 or sizes[0] % sizes[2]:
        raise UserError(f"{where} has the width, depth and heads {sizes} in config.json; expected heads that divide it")
    return dict(
        variant=variants.name_of(variants.Variant(*sizes), stated["patch_size"]),
        image_size=stated["image_size"],
        absolute_positions=stated["use_absolute_position_embeddings"],
        relative_position="shared" if shared else "per_block" if per_block else "none",
        layer_scale=max(float(stated["layer_scale_init_value"]), 0.0),
        drop_path=float(stated["drop_path_rate"]),
        norm_eps=float(stated["layer_norm_eps"]),
        pooling="mean" if stated["use_mean_pooling"] else "cls",
    )


def labels_of(file: Mapping[str, Any], classes: int, where: str) -> tuple[str, ...]:
    """Names of the classes in a `config.json`, in the order of their numbers; none where it names none.

    transformers calls them `id2label`, and writes LABEL_0, LABEL_1, ... where it knows no names. timm calls them
    `label_names`, and has a list of them, or numbers and names.

    Raises:
      UserError: there are not as many as the classifier has rows, or they are not numbered 0, 1, 2, ...
    """
    pretrained_cfg = file.get("pretrained_cfg")
    stated = [(key, file.get(key)) for key in ("num_labels", "num_classes", "id2label", "label_names")]
    if isinstance(pretrained_cfg, Mapping):
        stated.append(("label_names", pretrained_cfg.get("label_names")))
    labels: tuple[str, ...] = ()
    for key, value in stated:
        if key.startswith("num_") and value not in (None, classes):
            raise UserError(f"{where} has {key}={value!r} in config.json, but its classifier has {classes} rows")
        if not key.startswith("num_") and value is not None:
            labels = labels or _names_in_order(key, value, classes, where)
    return () if class_names.are_unnamed(labels) else labels


def _names_in_order(key: str, names: Any, classes: int, where: str) -> tuple[str, ...]:
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    is_numbered = isinstance(names, Mapping) and all(key.isdecimal() for key in names)
    if not is_numbered or len(names) != classes:
        found = f"{len(names)} classes" if is_numbered else repr(names)[:80]
        raise UserError(
            f"{where} has {key} for {found} in config.json; expected a number and a name for each of the "
            f"classifier's {classes} rows"
        )
    numbers = sorted(map(int, names))
    if numbers not in ([*range(classes)], IMAGENET_22K):
        missing = ", ".join(str(row) for row in range(classes) if row not in numbers)
        raise UserError(
            f"{where} has {key} without the numbers {missing[:80]} in config.json; expected 0 to {classes - 1}: which "
            "name belongs to which row is not known"
        )
    if not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{where} has a {key} in config.json that is no text; expected names of the classes")
    return tuple(names[key] for key in sorted(names, key=int))


def to_hf(config: ConfigDict) -> dict[str, Any]:
    """The `config.json` of a transformers model."""
    layout, model, (variant, patch) = task_layout(config.task), config.model, variants.parse(config.model.variant)
    return {
        "architectures": [layout.hf_class],
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
        "use_mask_token": layout.takes_mask,
        "use_absolute_position_embeddings": model.absolute_positions,
        "use_relative_position_bias": model.relative_position == "per_block",
        "use_shared_relative_position_bias": model.relative_position == "shared",
        "torch_dtype": "float32",
    } | layout.hf_settings(config)


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
    } | ({"label_names": list(config.labels)} if config.labels else {})
