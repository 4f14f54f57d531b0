"""Loads models from checkpoints of any library, and saves them for any."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax import system_errors
from beit_jax.convert import (
    detect,
    files,
    locate,
    names,
    preprocessing,
    retarget,
    safetensors_file,
    settings,
    torch_writer,
)
from beit_jax.convert.layouts import task_layout
from beit_jax.errors import UserError
from beit_jax.models import variants
from beit_jax.runtime.atomic_write import atomic_write
from beit_jax.runtime.checkpoint_folder import find_checkpoint, holds_checkpoint
from beit_jax.tasks import create_task
from beit_jax.training import checkpoint
from beit_jax.training.interpolate_positions import METHODS, interpolate_positions
from beit_jax.training.params import flatten, merge, unflatten

Format = Literal["beit_jax", "hf", "unilm", "timm", "dalle"]

NAMED = 10  # tensors in a note


class Pretrained(NamedTuple):
    """A network, its parameters (float32 NumPy arrays), and its config.

    `config` is that of a run of the task, with a section `preprocess` (see `preprocessing.preprocess_section`).
    """

    model: nn.Module
    params: dict[str, Any]
    config: ConfigDict


def from_pretrained(
    name_or_path: str | Path,
    task: str | None = None,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    heads: int | None = None,
    resize: str = "official",
    seed: int = 0,
) -> Pretrained:
    """Loads a checkpoint: of this library, Hugging Face (folder or hub id), the official code, timm, or OpenAI's dVAE.

    What a checkpoint does not state and is assumed, and what it holds and is not used, is told on stderr.

    >>> model, params, config = from_pretrained("microsoft/beit-base-patch16-224")  # doctest: +SKIP
    >>> logits = model.apply({"params": params}, preprocess(images, config.preprocess))  # doctest: +SKIP

    Args:
      name_or_path: a file, a folder, or a hub id. Nothing in a file of PyTorch is executed.
      task: None for the task of the checkpoint; "classify" makes a classifier from a pre-trained model, as the official
        fine-tuning does: it copies the shared table to every block, drops the final norm, and initializes `fc_norm` and
        the head.
      num_classes: of the classifier; the head is initialized where the checkpoint has none, or another number.
      image_size: side in pixels; positions are interpolated where the checkpoint has another one.
      heads: attention heads, for a checkpoint that does not state them.
      resize: the method, see `training.interpolate_positions.interpolate_positions`.
      seed: of parameters that are initialized.

    Raises:
      UserError: there is no checkpoint, or it is damaged, of an unknown layout, or unlike its own settings; lists every
        name. Or it does not state something that must be given.
    """
    params, config = read_pretrained(str(name_or_path), heads, num_classes, seed)
    same_classes = num_classes in (None, config.get("model", {}).get("num_classes"))
    if task in (None, config.task) and same_classes and image_size is None:
        return Pretrained(create_task(config).model, params, config)
    if resize not in METHODS:
        raise UserError(f"resize={resize!r}; expected one of {', '.join(METHODS)}")
    changed = retarget.config_for(config, task or config.task, num_classes, image_size)
    made = create_task(changed)
    initial = jax.tree.map(np.asarray, jax.jit(made.init)(jax.random.key(seed)))
    interpolated = interpolate_positions(params, initial, resize)
    merged = merge(initial, interpolated, retarget.optional_params(config, changed), made.ignored_parameters)
    return Pretrained(made.model, merged, changed)


def read_pretrained(
    name_or_path: str, heads: int | None = None, num_classes: int | None = None, seed: int = 0
) -> tuple[dict[str, Any], ConfigDict]:
    """Parameters and config of a checkpoint, as those of `from_pretrained`; also of a tokenizer that is no network."""
    path = locate.local_path(name_or_path)
    if path.is_dir() and holds_checkpoint(path):
        params, config = _load_ours(find_checkpoint(str(path)))
        own = variants.parse(config.model.variant)[0].heads if "variant" in config.get("model", {}) else None
        if heads not in (None, own):
            raise UserError(f"{path} has {own} attention heads, and heads={heads} is given")
        return params, config
    source = files.read_files(path)
    config = detect.detect_config(source, str(path), heads, num_classes)
    shapes = flatten(_shapes(config))
    new = _new_head(source, config, seed) if detect.is_headless(source, config) else {}
    shapes = {name: leaf for name, leaf in shapes.items() if name not in new}
    state = _without_unused(source, config.task)
    where = f"{path}, with the config.json in its folder," if source.settings else str(path)
    check_names(state, names.shapes_in(shapes, source.layout, config.task), where)
    for note in source.notes:
        print(f"{path}: {note}", file=sys.stderr)
    return unflatten(names.from_layout(state, shapes, source.layout, config.task) | new), config


def _new_head(source: files.Files, config: ConfigDict, seed: int) -> dict[str, np.ndarray]:
    """The initial parameters of the head and its norm, where a checkpoint has none of them."""
    initial = flatten(jax.jit(create_task(config).init)(jax.random.key(seed)))
    absent = {
        name: names.counterpart(name, 1, source.layout, config.task).names[0][0] not in source.state
        for name in initial
        if name.startswith(("head/", "fc_norm/"))
    }
    return {name: np.array(initial[name]) for name, is_absent in absent.items() if is_absent}


def _without_unused(source: files.Files, task: str) -> dict[str, np.ndarray]:
    """The tensors without those that other models left behind, which a note names."""
    unused = [name for name in source.state if re.match(task_layout(task).unused, name)]
    if unused:
        more = f" and {len(unused) - NAMED} more" if len(unused) > NAMED else ""
        source.notes.append(f"not used, as this model does not read them: {', '.join(unused[:NAMED])}{more}")
    return {name: value for name, value in source.state.items() if name not in unused}


def _load_ours(path: Path) -> tuple[dict[str, Any], ConfigDict]:
    config = configs.from_json(checkpoint.load_config(path))
    single = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    loaded = jax.tree.map(np.asarray, checkpoint.load_params(path, single))
    if "data" in config:
        with config.unlocked():
            config.preprocess = preprocessing.from_config(config)
    return merge(_shapes(config), loaded), config


def _shapes(config: ConfigDict) -> dict[str, Any]:
    return jax.eval_shape(create_task(config).init, jax.random.key(0))


def check_names(
    state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], where: str, what: str = "BEiT"
) -> None:
    """Checks that a checkpoint holds exactly the tensors of its model; `what` is its kind, for the message.

    Raises:
      UserError: lists every missing, unexpected and mis-shaped tensor.
    """
    shapes = [
        f"{name} {state[name].shape} (expected {expected[name]})"
        for name in expected
        if name in state and state[name].shape != expected[name]
    ]
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": shapes,
    }
    message = "; ".join(f"{title}: {', '.join(listed)}" for title, listed in problems.items() if listed)
    if message:
        raise UserError(f"{where} is no complete {what} checkpoint; {message}")


def save_pretrained(
    folder: str | Path, params: Mapping[str, Any], config: ConfigDict, *, format: Format = "hf"
) -> None:
    """Writes a model for another library (or this one) to read.

    "hf": a folder for transformers' `from_pretrained`. "timm": one for `timm.create_model("local-dir:FOLDER")`; a
    classifier. "unilm": `checkpoint.pth` for the official code (needs torch). "dalle": `encoder.pkl` and `decoder.pkl`
    for the package `dall_e`; a tokenizer (needs dall_e). "beit_jax": a run folder, for `init_from` and `evaluate`.

    Args:
      folder: must not exist; it appears when it is complete.
      params: of the model.
      config: as `from_pretrained` returns it.
      format: see above.

    Raises:
      UserError: the folder exists, or the format has no layout for such a model.
    """
    target = Path(folder)
    if format != "beit_jax":
        _check_format(format, config)
    locate.check_target(target, format)
    flat = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    expected = flatten(_shapes(config))
    merge(unflatten(expected), unflatten(flat))  # an error lists names and shapes that differ
    try:
        with atomic_write(target) as part:
            part.mkdir()
            WRITERS[format](part, flat, config)
    except Exception as error:
        if reason := system_errors.reason_of(error):
            raise UserError(f"{target} cannot be written: {reason}; choose another folder") from error
        raise


def _check_format(format: str, config: ConfigDict) -> None:
    layout = task_layout(config.task)
    unsupported = layout.unsupported(config)
    formats = layout.formats_of(config)
    if format in formats and not unsupported:
        return
    what = unsupported if format in formats else f"models of the task {config.task!r}"
    expected = ("beit_jax",) if unsupported else ("beit_jax", *formats)
    raise UserError(f"format={format!r} has no layout for {what}; expected {' or '.join(expected)}")


def _write_ours(folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict) -> None:
    checkpoint.save_params(folder, unflatten(flat), configs.to_json(run_config(config)))


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


def _write_hf(folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict) -> None:
    state = names.to_layout(flat, "hf", config.task) | names.buffers(flat, "hf", config.task)
    safetensors_file.write_tensors(folder / "model.safetensors", state)
    _write_json(folder / "config.json", settings.to_hf(config))
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


WRITERS: dict[str, Callable[[Path, Mapping[str, np.ndarray], ConfigDict], None]] = {
    "beit_jax": _write_ours,
    "hf": _write_hf,
    "unilm": _write_unilm,
    "timm": _write_timm,
    "dalle": _write_dalle,
}
