"""Reads named tensors, and the settings beside them, from a file or a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beit_jax import extras
from beit_jax.convert import torch_reader
from beit_jax.convert.locate import DALLE, WEIGHTS, weights_file
from beit_jax.convert.names import BUFFERS, Layout
from beit_jax.convert.torch_storages import as_float32
from beit_jax.errors import UserError


class Files(NamedTuple):
    """Tensors by name, the layout of the names, and the contents of `config.json` and `preprocessor_config.json`."""

    state: dict[str, np.ndarray]
    layout: Layout
    settings: dict[str, Any]
    preprocessor: dict[str, Any]


def read_files(path: Path) -> Files:
    """Reads a file, or a folder of one of the layouts.

    Raises:
      UserError: nothing can be read, the layout is unknown, or a number is not finite.
    """
    settings, preprocessor = {}, {}
    if path.is_dir() and all((path / name).exists() for name in DALLE):
        parts = {name.removesuffix(".pkl"): torch_reader.read_tensors(path / name) for name in DALLE}
        state = {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}
    elif path.is_dir():
        return read_files(weights_file(path))
    else:
        state = _tensors(path)
        if path.name in WEIGHTS:
            settings, preprocessor = (
                _json(path.with_name(name)) for name in ("config.json", "preprocessor_config.json")
            )
    state = {name: value for name, value in state.items() if not BUFFERS.search(name)}
    check_finite(state, path)
    return Files(state, _layout(state, path), settings, preprocessor)


def check_finite(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """
    Raises:
      UserError: some numbers are not finite; names the tensors.
    """
    names = sorted(name for name, values in tensors.items() if not np.isfinite(values).all())
    if names:
        raise UserError(f"{path} holds NaN or infinite numbers in {', '.join(names)}; choose another checkpoint")


def _tensors(path: Path) -> dict[str, np.ndarray]:
    if path.suffix != ".safetensors":
        return torch_reader.read_tensors(path)
    extras.check_installed("safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); is it truncated? Download it again") from error
    return {name: as_float32(value) for name, value in tensors.items()}


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; expected an object with settings")
    return value


def _layout(state: Mapping[str, Any], path: Path) -> Layout:
    if "beit.embeddings.cls_token" in state:
        return "hf"
    if any(f"{prefix}cls_token" in state for prefix in ("", "backbone.")):
        return "unilm"
    if "encoder.blocks.input.w" in state:
        return "dalle"
    some = ", ".join(sorted(state)[:5])
    raise UserError(
        f"{path} is of no known layout (its tensors: {some}, ...); expected a BEiT of the official "
        "code, transformers or timm, or a folder with OpenAI's encoder.pkl and decoder.pkl"
    )
