"""Loads models from checkpoints of any library."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax.config import statistics as pixel_statistics
from beit_jax.config.encoder import patch_grid
from beit_jax.convert import (
    detect,
    files,
    hub,
    locate,
    names,
    own_layout,
    preprocessing,
    retarget,
)
from beit_jax.convert.layouts import task_layout
from beit_jax.errors import UserError
from beit_jax.models import variants
from beit_jax.models.image_size import ImageSize
from beit_jax.models.pixel_statistics import Statistics
from beit_jax.runtime.checkpoint_folder import find_checkpoint, holds_checkpoint
from beit_jax.runtime.run_once import run_once
from beit_jax.runtime.urls import is_bucket
from beit_jax.tasks import create_task
from beit_jax.training import checkpoint
from beit_jax.training.inflate_channels import WAYS, inflate_channels
from beit_jax.training.interpolate_positions import METHODS, interpolate_positions
from beit_jax.training.params import flatten, merge, unflatten

NAMED = 10  # tensors in a note


class Pretrained(NamedTuple):
    """A network, its parameters (float32 NumPy arrays), and its config.

    `model` is None for a model that is no Flax network, such as a k-means tokenizer: its task has the methods.
    `config` is that of a run of the task, with a section `preprocess` (see `preprocessing.preprocess_section`).

    Examples:
      >>> pretrained = beit_jax.from_pretrained("runs/pretrain")
      >>> pretrained.config.task, pretrained.params["encoder"]["cls_token"].shape
      ('pretrain_pixels', (1, 1, 32))
    """

    model: nn.Module | None
    params: dict[str, Any]
    config: ConfigDict


def from_pretrained(
    name_or_path: str | Path,
    task: str | None = None,
    *,
    num_classes: int | None = None,
    image_size: ImageSize | None = None,
    channels: int | None = None,
    inflate: str = "",
    heads: int | None = None,
    statistics: str | None = None,
    resize: str = "official",
    seed: int = 0,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Pretrained:
    """Loads a checkpoint: of this library, Hugging Face (folder or hub id), the official code, timm, or OpenAI's dVAE.

    The model is what the checkpoint holds, and `config.task` says which that is: a classifier ("classify"), a
    segmentation ("segment"), the masked model of a pre-training ("pretrain"; of BEiT v2 if `config.model.early_layer`
    is not 0), or a tokenizer ("tokenizer", with `config.model.kind` "dvae" or "vqkd"). A tokenizer's own methods give
    tokens, `tasks.create_task(config).tokenizer.targets(params, images)`. `convert.teachers.load_teacher` loads frozen
    teachers.

    What a checkpoint does not state and is assumed, and what it holds and is not used, is told on stderr.

    Args:
      name_or_path: a file or a folder, also in a bucket (`gs://BUCKET/NAME`), or a hub id, also as
        `owner/name@revision`. Nothing in a file of PyTorch is executed.
      task: None for the task of the checkpoint; "classify" makes a classifier from a pre-trained model, as the official
        fine-tuning does: it copies the shared table to every block, drops the final norm, and initializes `fc_norm` and
        the head.
      num_classes: of the classifier; the head is initialized where the checkpoint has none, or another number.
      channels: of the images, which the checkpoint may have others of, with `inflate`.
      inflate: "average": see `training.inflate_channels`; empty: other channels are refused.
      image_size: side in pixels, or (height, width); positions are interpolated where the checkpoint has another one.
      heads: attention heads, for a checkpoint that does not state them.
      statistics: of pixels, as `data.statistics` of a config, in place of those that a checkpoint states, or that are
        assumed where it states none.
      resize: the method, see `training.interpolate_positions.interpolate_positions`.
      seed: of parameters that are initialized.
      revision: branch, tag or commit of a hub id; None: `main`.
      token: of the hub; None: that of HF_TOKEN, or of the login that is stored.
      cache_dir: where downloads are kept; None: the cache of `huggingface_hub`.
      local_files_only: whether only what was downloaded before is read.

    Raises:
      UserError: there is no checkpoint, or it is damaged, of an unknown layout, or unlike its own settings; lists every
        name. Or it does not state something that must be given.

    Examples:
      >>> model, params, config = beit_jax.from_pretrained("runs/finetune")
      >>> config.task, config.labels
      ('classify', ('cat', 'dog'))
      >>> pixels = beit_jax.preprocess([Image.open("cat.png")], config.preprocess)
      >>> jax.jit(model.apply)({"params": params}, pixels).shape  # logits
      (1, 2)

      A pre-trained model becomes a classifier of other images, with a new head:

      >>> model, params, config = beit_jax.from_pretrained(
      ...     "runs/pretrain", task="classify", num_classes=5, image_size=32
      ... )
      >>> params["head"]["kernel"].shape
      (32, 5)
    """
    pixels = None
    if statistics is not None:
        pixel_statistics.KEY.validate("statistics", statistics)
        pixels = pixel_statistics.parse(statistics or "inception")
    options = hub.Options(revision, token, cache_dir, local_files_only)
    params, config = read_pretrained(str(name_or_path), heads, num_classes, seed, pixels, options)
    same_classes = num_classes in (None, config.get("model", {}).get("num_classes"))
    if task in (None, config.task) and same_classes and image_size is None and channels in (None, config.data.channels):
        return Pretrained(_network(config), params, config)
    if inflate not in WAYS:
        raise UserError(f"inflate={inflate!r}; expected average, or nothing")
    if resize not in METHODS:
        raise UserError(f"resize={resize!r}; expected one of {', '.join(METHODS)}")
    changed = retarget.config_for(config, task or config.task, num_classes, image_size, channels)
    made = create_task(changed)
    initial = jax.tree.map(np.asarray, run_once(made.init, jax.random.key(seed)))
    grids = (patch_grid(section.model) for section in (changed, config))
    inflated = inflate_channels(params, initial, inflate)
    interpolated = interpolate_positions(inflated, initial, resize, *grids)
    merged = merge(initial, interpolated, retarget.optional_params(config, changed), made.ignored_parameters)
    return Pretrained(made.model, merged, changed)


def _network(config: ConfigDict) -> nn.Module | None:
    """The network of a config's task; None: it has none."""
    try:
        return create_task(config).model
    except UserError:
        return None


def read_pretrained(
    name_or_path: str,
    heads: int | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    pixels: Statistics | None = None,
    options: hub.Options = hub.DEFAULT,
    path: Path | None = None,
) -> tuple[dict[str, Any], ConfigDict]:
    """Parameters and config of a checkpoint, as those of `from_pretrained`; `path` is where it is, if that is known."""
    path = path or locate.local_path(name_or_path, options)
    if path.is_dir() and holds_checkpoint(path):
        params, config = _load_ours(find_checkpoint(str(path)))
    else:
        with locate.named(path, name_or_path):
            if not own_layout.is_own(path):
                return _read_foreign(path, name_or_path, heads, num_classes, seed, pixels)
            params, config = _complete_ours(*own_layout.read(path))
    own = variants.parse(config.model.variant)[0].heads if "variant" in config.get("model", {}) else None
    if heads not in (None, own):
        has = f"{own} attention heads" if own else "no attention"
        raise UserError(f"{path} has {has}, and heads={heads} is given")
    if pixels and config.task == "tokenizer":
        raise UserError(f"{path} is a tokenizer, which normalizes pixels by itself; leave the statistics out")
    if pixels and pixels != (config.preprocess.mean, config.preprocess.std):
        theirs = pixel_statistics.as_text((config.preprocess.mean, config.preprocess.std))
        raise UserError(f"{path} is a run on pixels with the statistics {theirs}, and others are given")
    return params, config


def _read_foreign(
    path: Path, name: str, heads: int | None, num_classes: int | None, seed: int, pixels: Statistics | None
) -> tuple[dict[str, Any], ConfigDict]:
    """Parameters and config of a checkpoint of another library."""
    source = files.read_files(path)
    shown = name if is_bucket(name) else str(path)
    called = hub.parse(name)[0] if name != str(path) and hub.is_id(name) else shown
    config = detect.detect_config(source, called, heads, num_classes, pixels)
    shapes = flatten(shapes_of(config))
    new = _new_head(source, config, seed) if detect.is_headless(source, config) else {}
    shapes = {name: leaf for name, leaf in shapes.items() if name not in new}
    state = _without_unused(source, config.task)
    where = f"{path}, with the config.json in its folder," if source.settings else str(path)
    check_names(state, names.shapes_in(shapes, source.layout, config.task), where)
    for note in source.notes:
        print(f"{shown}: {note}", file=sys.stderr)
    return unflatten(names.from_layout(state, shapes, source.layout, config.task) | new), config


def _new_head(source: files.Files, config: ConfigDict, seed: int) -> dict[str, np.ndarray]:
    """The initial parameters of the head and its norm, where a checkpoint has none of them."""
    initial = flatten(run_once(create_task(config).init, jax.random.key(seed)))
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
    if config.get("task", None) == "teacher":
        raise UserError(
            f"{path} is a frozen teacher; convert.teachers.load_teacher loads it, for the training of a tokenizer"
        )
    single = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return _complete_ours(jax.tree.map(np.asarray, checkpoint.load_params(path, single)), config)


def _complete_ours(loaded: dict[str, Any], config: ConfigDict) -> tuple[dict[str, Any], ConfigDict]:
    if "data" in config:
        with config.unlocked():
            config.preprocess = preprocessing.from_config(config)
    return merge(shapes_of(config), loaded), config


def shapes_of(config: ConfigDict) -> dict[str, Any]:
    """The shapes of the parameters of a config's model."""
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
