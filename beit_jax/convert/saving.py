"""Saves models for any library."""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax import system_errors
from beit_jax.convert import (
    data2vec,
    locate,
    names,
    own_layout,
    preprocessing,
    safetensors_file,
    settings,
    shards,
    torch_writer,
)
from beit_jax.convert.layouts import task_layout
from beit_jax.convert.pretrained import shapes_of
from beit_jax.errors import UserError
from beit_jax.models.image_size import in_words
from beit_jax.runtime.atomic_write import atomic_write
from beit_jax.runtime.paths import as_path
from beit_jax.training import checkpoint
from beit_jax.training.params import flatten, merge, unflatten

Format = Literal["beit_jax", "safetensors", "hf", "unilm", "timm", "data2vec", "dalle"]


ANY_TASK = ("beit_jax", "safetensors")


def save_pretrained(
    folder: str | Path,
    params: Mapping[str, Any],
    config: ConfigDict,
    *,
    format: Format = "hf",
    max_shard_size: int | str = shards.MAX_SHARD_SIZE,
) -> None:
    """Writes a model for another library (or this one) to read.

    "hf": a folder for transformers' `from_pretrained`. "data2vec": the same, as its data2vec for images. "timm": one
    for `timm.create_model("local-dir:FOLDER")`; a classifier. "unilm": `checkpoint.pth` for the official code (needs
    torch). "dalle": `encoder.pkl` and `decoder.pkl` for the package `dall_e`; a tokenizer (needs dall_e). "beit_jax": a
    run folder, for `init_from` and `evaluate`. "safetensors": this library's names and config without Orbax, for the
    hub; any task.

    Args:
      folder: must not exist; it appears when it is complete. It may lie in a bucket (`gs://BUCKET/NAME`).
      params: of the model.
      config: as `from_pretrained` returns it.
      format: see above.
      max_shard_size: of a file, in bytes or as "5GB"; the formats hf, data2vec and safetensors write larger weights as
        several files with an index.

    Raises:
      UserError: the folder exists, or the format has no layout for such a model.

    Examples:
      >>> _, params, config = beit_jax.from_pretrained("runs/finetune")
      >>> beit_jax.save_pretrained("for_transformers", params, config, format="hf")
      >>> sorted(path.name for path in Path("for_transformers").iterdir())
      ['config.json', 'model.safetensors', 'preprocessor_config.json']
    """
    target = as_path(folder)
    shards.check_size(max_shard_size)
    check_format(format, config)
    locate.check_target(target, format)
    flat = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    expected = flatten(shapes_of(config))
    merge(unflatten(expected), unflatten(flat))  # an error lists names and shapes that differ
    try:
        with atomic_write(target) as part:
            part.mkdir()
            more = (max_shard_size,) if format in locate.SHARDED else ()
            WRITERS[format](part, flat, config, *more)
    except Exception as error:
        if reason := system_errors.reason_of(error):
            raise UserError(f"{target} cannot be written: {reason}; choose another folder") from error
        raise


def check_format(format: str, config: ConfigDict) -> None:
    """Checks that a format has a layout for the model of a config.

    Raises:
      UserError: it has none.
    """
    if format not in ANY_TASK:
        _check_images(format, config)
        _check_layout(format, config)


def _check_images(format: str, config: ConfigDict) -> None:
    """Raises UserError for images that the formats of other libraries have no words for."""
    size, channels = config.model.image_size, config.data.channels
    if channels != 3 or not isinstance(size, int):
        raise UserError(
            f"format={format!r} is for square RGB images, and the model sees {in_words(size)} pixels of {channels} "
            f"channels; expected format={' or '.join(map(repr, ANY_TASK))}"
        )
    max_value = config.get("preprocess", {}).get("max_value", 0.0)
    if max_value not in (0, 255):
        raise UserError(
            f"format={format!r} is for images of 8 bits, and the model divides pixels by {max_value:g} "
            f"(data.max_value); expected format={' or '.join(map(repr, ANY_TASK))}"
        )


def _check_layout(format: str, config: ConfigDict) -> None:
    layout = task_layout(config.task)
    unsupported = layout.unsupported(config)
    formats = layout.formats_of(config)
    if format in formats and not unsupported:
        return
    what = unsupported if format in formats else f"models of the task {config.task!r}"
    expected = ANY_TASK if unsupported else (*ANY_TASK, *formats)
    raise UserError(f"format={format!r} has no layout for {what}; expected {' or '.join(expected)}")


def _write_ours(folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict) -> None:
    checkpoint.save_params(folder, unflatten(flat), configs.to_json(run_config(config)))


def _write_own_layout(
    folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict, max_shard_size: int | str
) -> None:
    own_layout.write(folder, flat, run_config(config), max_shard_size)


def run_config(config: ConfigDict) -> ConfigDict:
    """The config of a run, from that of a loaded model: its ops say what the section `preprocess` says.

    Of a model that is of no run, `data.source` is empty: it is not known.

    Raises:
      UserError: there are no ops for this task.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if "data" in config:
            if not config.data.eval_ops:
                config.data.eval_ops = config.data.ops = task_layout(config.task).eval_ops(config)
                config.data.source = ""
            del config.preprocess
    return config


def _write_hf(
    folder: Path,
    flat: Mapping[str, np.ndarray],
    config: ConfigDict,
    max_shard_size: int | str,
    *,
    as_data2vec: bool = False,
) -> None:
    state = names.to_layout(flat, "hf", config.task) | names.buffers(flat, "hf", config.task)
    stated = settings.to_hf(config)
    if as_data2vec:
        state, stated = data2vec.state_of(state), data2vec.settings_of(stated)
    shards.write_tensors(folder, state, max_shard_size)
    _write_json(folder / "config.json", stated)
    _write_json(folder / "preprocessor_config.json", preprocessing.to_hf(config.preprocess))


def _write_timm(folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict) -> None:
    safetensors_file.write_tensors(folder / "model.safetensors", names.to_layout(flat, "unilm", config.task))
    _write_json(folder / "config.json", settings.to_timm(config))


def _write_unilm(folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict) -> None:
    state = names.to_layout(flat, "unilm", config.task) | names.buffers(flat, "unilm", config.task)
    torch_writer.save_nested(folder / "checkpoint.pth", state, task_layout(config.task).unilm_nest)


def _write_dalle(folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict) -> None:
    torch_writer.save_dalle(folder, names.to_layout(flat, "dalle", config.task), config.model)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


WRITERS: dict[str, Callable[..., None]] = {
    "beit_jax": _write_ours,
    "safetensors": _write_own_layout,
    "hf": _write_hf,
    "unilm": _write_unilm,
    "timm": _write_timm,
    "data2vec": functools.partial(_write_hf, as_data2vec=True),
    "dalle": _write_dalle,
}
