"""Reads named tensors, and the settings beside them, from a file or a folder."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beit_jax.convert import data2vec, safetensors_file, settings_limits, shards, state_dicts
from beit_jax.convert.layouts import CODES
from beit_jax.convert.locate import DALLE, weights_file
from beit_jax.convert.names import BUFFERS, Layout
from beit_jax.convert.read_budget import excerpt
from beit_jax.convert.torch_storages import is_floating
from beit_jax.errors import UserError
from beit_jax.training.plausible import check_numbers

LONGEST_NAME = 500  # characters of the name of a tensor
BEIT3 = re.compile(r"^beit3\.|\battn\.norm\.weight$|\bmlp\.norm\.weight$")  # officially, and in timm
MODEL_TYPES = ("beit", data2vec.MODEL_TYPE)  # of transformers


class Files(NamedTuple):
    """What a checkpoint consists of.

    Attributes:
      state: tensors by name, without those that follow from others.
      layout: of the names.
      settings: the contents of `config.json`; empty: there is none.
      preprocessor: the same of `preprocessor_config.json`.
      arguments: see `state_dicts.StateDict`.
      indices: of relative positions, int `[n+1, n+1]`, by name.
      notes: lines for the user.
    """

    state: dict[str, np.ndarray]
    layout: Layout
    settings: dict[str, Any]
    preprocessor: dict[str, Any]
    arguments: dict[str, Any]
    indices: dict[str, np.ndarray]
    notes: list[str]


def read_files(path: Path) -> Files:
    """Reads a file with the settings that lie beside it, or a folder of one of the layouts.

    Raises:
      UserError: nothing can be read, the layout is unknown, the settings are of another library, or the
        tensors are damaged or hold other numbers than a network has.
    """
    if path.is_dir() and all((path / name).exists() for name in DALLE):
        parts = {name.removesuffix(".pkl"): state_dicts.read_torch(path / name).tensors for name in DALLE}
        stored = {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}
        return Files(weights(stored, path), "dalle", {}, {}, {}, {}, [])
    if path.is_dir():
        path = weights_file(path)
    if shards.is_index(path):
        read = state_dicts.read_shards(path)
    elif path.suffix == ".safetensors":
        read = state_dicts.named_as_published(safetensors_file.read_tensors(path), path)
    else:
        read = state_dicts.read_torch(path)
    beside = [path.with_name(name) for name in ("config.json", "preprocessor_config.json")]
    settings, preprocessor = map(settings_limits.read_settings, beside)
    layout = _layout(read.tensors, settings, path)
    if beside[0].exists():
        _check_library(settings, layout, path)
    indices = {name: value for name, value in read.tensors.items() if name.endswith("relative_position_index")}
    state = weights(read.tensors, path)
    shapes = {name: value.shape for name, value in state.items()}
    settings_limits.check_settings(settings, preprocessor, shapes, str(path))
    return Files(state, layout, settings, preprocessor, read.arguments, indices, read.notes)


def weights(tensors: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """The tensors that are learned, checked.

    Raises:
      UserError: a tensor has no plain name, or holds other numbers than a network has.
    """
    state = {name: value for name, value in tensors.items() if not BUFFERS.search(name)}
    for name in state:
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise UserError(f"{path} has a tensor with the name {excerpt(name)}; expected short, printable names")
    if integers := sorted(f"{name} ({value.dtype})" for name, value in state.items() if not is_floating(value.dtype)):
        raise UserError(
            f"{path} holds {', '.join(integers)}; expected floating numbers: quantized weights are not read, save the "
            "model in float32 or float16"
        )
    check_numbers(state, path)
    return state


def _check_library(settings: Mapping[str, Any], layout: Layout, path: Path) -> None:
    """Raises a UserError if a `config.json` is not of the library whose names the tensors beside it have."""
    expected = f"transformers (model_type {' or '.join(MODEL_TYPES)})" if layout == "hf" else "timm"
    for key in ("model_args", "pretrained_cfg"):
        if not isinstance(settings.get(key) or {}, Mapping):
            raise UserError(f"{path.with_name('config.json')} has {key}={settings[key]!r}; expected an object")
    is_timm = any(key in settings for key in ("architecture", "model_args", "pretrained_cfg"))
    is_beit = not is_timm and settings.get("model_type", "") in MODEL_TYPES
    if not (is_beit if layout == "hf" else is_timm):
        kind = settings.get("model_type")
        found = "timm" if is_timm else f"transformers (model_type={kind!r})" if kind else "another program"
        raise UserError(
            f"{path.with_name('config.json')} is of {found}, and does not fit the names in {path.name} beside it; "
            f"expected a config.json of {expected}: move one of the files to another folder"
        )


def _layout(state: Mapping[str, Any], settings: Mapping[str, Any], path: Path) -> Layout:
    if inner := next(filter(BEIT3.search, sorted(state)), None):
        raise UserError(
            f"{path} has norms within its blocks ({inner}), as BEiT-3 has, which is no model of this library; expected "
            "a BEiT or a BEiT v2"
        )
    if "beit.embeddings.cls_token" in state:
        return "hf"
    if any(f"{prefix}cls_token" in state for prefix in ("", "backbone.")) or CODES in state:
        return "unilm"
    some, kind = ", ".join(sorted(state)[:5]), settings.get("model_type")
    told = f"is a {kind!r} by the config.json beside it, and " if kind and kind not in MODEL_TYPES else ""
    raise UserError(
        f"{path} {told}is of no known layout (its tensors: {some}, ...); expected a BEiT of the official code, "
        "transformers or timm, transformers' data2vec for images, or a folder with OpenAI's encoder.pkl and decoder.pkl"
    )
