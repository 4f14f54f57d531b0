"""Reads named tensors, and the settings beside them, from a file or a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beit_jax import extras
from beit_jax.convert import settings_limits, torch_reader
from beit_jax.convert.locate import DALLE, WEIGHTS, weights_file
from beit_jax.convert.names import BUFFERS, Layout
from beit_jax.convert.read_budget import printable
from beit_jax.convert.torch_storages import as_float32, is_floating
from beit_jax.errors import UserError

LONGEST_NAME = 500  # characters of the name of a tensor


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
                settings_limits.read_settings(path.with_name(name))
                for name in ("config.json", "preprocessor_config.json")
            )
    state = {name: value for name, value in state.items() if not BUFFERS.search(name)}
    _check_tensors(state, path)
    check_finite(state, path)
    layout, shapes = _layout(state, path), {name: value.shape for name, value in state.items()}
    settings_limits.check_settings(settings, preprocessor, shapes, str(path))
    return Files(state, layout, settings, preprocessor)


def check_finite(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """
    Raises:
      UserError: some numbers are not finite; names the tensors.
    """
    names = sorted(name for name, values in tensors.items() if not np.isfinite(values).all())
    if names:
        raise UserError(f"{path} holds NaN or infinite numbers in {', '.join(names)}; choose another checkpoint")


def _check_tensors(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    for name in tensors:
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise UserError(f"{path} has a tensor with the name {printable(name)}; expected short, printable names")
    integers = sorted(f"{name} ({values.dtype})" for name, values in tensors.items() if not is_floating(values.dtype))
    if integers:
        raise UserError(f"{path} holds {', '.join(integers)}; expected floating numbers: choose another checkpoint")


def _tensors(path: Path) -> dict[str, np.ndarray]:
    if path.suffix != ".safetensors":
        return torch_reader.read_tensors(path)
    extras.check_installed("safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        reason = printable(str(error))
        raise UserError(f"{path} cannot be read ({reason}); is it truncated? Download it again") from error
    except AttributeError as error:  # it asks NumPy for types that NumPy does not have
        raise UserError(
            f"{path} holds numbers of 8 bits or fewer ({printable(str(error))}); expected float16, bfloat16 or float32"
        ) from error
    return {name: as_float32(value) for name, value in tensors.items()}


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
