"""Models out of checkpoints of any origin, and back."""

import contextlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax import tasks
from beit_jax.convert import detect, files, names, preprocessing, retarget, settings, torch_writer
from beit_jax.errors import UserError
from beit_jax.training import checkpoint
from beit_jax.training.interpolate_positions import METHODS, interpolate_positions
from beit_jax.training.params import flatten, merge, unflatten

Format = Literal["beit_jax", "hf", "unilm", "timm", "dalle"]


class Pretrained(NamedTuple):
    """A network, its parameters (float32 NumPy arrays), and its config.

    `config` is that of a run of the task, with a section `preprocess` (see `preprocessing.make`).
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
    resize: str = "official",
    seed: int = 0,
) -> Pretrained:
    """Loads a checkpoint: of this library, Hugging Face (folder or hub id), the official code, timm, or OpenAI's dVAE.

    >>> model, params, config = from_pretrained("microsoft/beit-base-patch16-224")  # doctest: +SKIP
    >>> logits = model.apply({"params": params}, preprocess(images, config.preprocess))  # doctest: +SKIP

    Args:
      name_or_path: a file, a folder, or a hub id. Nothing in a file of PyTorch is executed.
      task: what the model is for, if not what it was saved as: "classify" makes a classifier out of a pre-trained
        model, as the official fine-tuning does: shared table copied to every block, final norm dropped, `fc_norm` and
        head fresh.
      num_classes: of the classifier; another number than the checkpoint's gives a fresh head.
      image_size: side in pixels, if another; positions are resized.
      resize: how, see `training.interpolate_positions.interpolate_positions`.
      seed: of fresh parameters.

    Raises:
      UserError: nothing there, damaged, of an unknown layout, or unlike its own settings; lists every name.
    """
    params, config = _load(str(name_or_path))
    if task in (None, config.task) and num_classes is None and image_size is None:
        return Pretrained(tasks.model(config), params, config)
    if resize not in METHODS:
        raise UserError(f"resize={resize!r}; expected one of {', '.join(METHODS)}")
    changed = retarget.config_for(config, task or config.task, num_classes, image_size)
    initial = jax.tree.map(np.asarray, jax.jit(tasks.create(changed).init)(jax.random.key(seed)))
    merged = merge(
        initial, interpolate_positions(params, initial, resize), *retarget.fresh_and_dropped(config, changed)
    )
    return Pretrained(tasks.model(changed), merged, changed)


def _load(name: str) -> tuple[dict[str, Any], ConfigDict]:
    path = files.local(name)
    if path.is_dir() and checkpoint.holds_checkpoint(path):
        return _load_ours(checkpoint.find_checkpoint(str(path)))
    found = files.read(path)
    config = detect.config_of(found, str(path))
    shapes = flatten(_shapes(config))
    _check_names(found, names.shapes_in(shapes, found.layout, config.task), str(path))
    return unflatten(names.from_layout(found.state, shapes, found.layout, config.task)), config


def _load_ours(path: Path) -> tuple[dict[str, Any], ConfigDict]:
    config = configs.from_json(checkpoint.load_config(path))
    single = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    loaded = jax.tree.map(np.asarray, checkpoint.load_params(path, single))
    broken = [name for name, value in flatten(loaded).items() if not np.isfinite(value).all()]
    if broken:
        raise UserError(f"{path} holds NaN or infinite numbers in {', '.join(broken)}; choose another checkpoint")
    if "data" in config:
        with config.unlocked():
            config.preprocess = preprocessing.from_ops(config.data.eval_ops, config.model.image_size)
    return merge(_shapes(config), loaded), config


def _shapes(config: ConfigDict) -> dict[str, Any]:
    return jax.eval_shape(tasks.create(config).init, jax.random.key(0))


def _check_names(found: files.Files, expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Every tensor has its place, and every place its tensor."""
    state = found.state
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
    told = "; ".join(f"{title}: {', '.join(listed)}" for title, listed in problems.items() if listed)
    if told:
        raise UserError(f"{where} is no whole BEiT checkpoint; {told}")


def save_pretrained(
    folder: str | Path, params: Mapping[str, Any], config: ConfigDict, *, format: Format = "hf"
) -> None:
    """Writes a model for another library (or this one) to read.

    "hf": a folder for transformers' `from_pretrained`. "timm": one for `timm.create_model("local-dir:FOLDER")`; a
    classifier. "unilm": `checkpoint.pth` for the official code (needs torch). "dalle": `encoder.pkl` and `decoder.pkl`
    for the package `dall_e`; a tokenizer (needs dall_e). "beit_jax": a run folder, for `init_from` and `evaluate`.

    Args:
      folder: where to; must not exist. Appears at the end, whole.
      params: of the model.
      config: as `from_pretrained` returns it.
      format: see above.

    Raises:
      UserError: the folder exists, or the format has no place for such a model.
    """
    target = Path(folder)
    check_target(target, format)
    write, tasks_of_format = WRITERS[format]
    if format != "beit_jax" and config.get("target", "tokens") != "tokens":
        raise UserError(f"format={format!r} has no place for a model that predicts {config.target}; use beit_jax")
    if config.task not in tasks_of_format or (
        format != "beit_jax" and config.model.get("head", "upernet") != "upernet"
    ):
        what = f"a model of the task {config.task!r}" if config.task not in tasks_of_format else config.model.head
        raise UserError(f"format={format!r} has no place for {what}; see --help")
    flat = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    expected = flatten(_shapes(config))
    merge(unflatten(expected), unflatten(flat))  # the same names and shapes, or an error that lists the others
    with _whole(target) as temporary:
        write(temporary, flat, config)


def check_target(target: Path, format: str) -> None:
    """What can be refused before anything is read.

    Raises:
      UserError: the target exists, or the format needs a library that is not installed.
    """
    try:
        exists = target.exists() or target.is_symlink()
    except OSError as error:
        raise UserError(f"{str(target)[:80]} cannot be written ({error.strerror}); choose another folder") from error
    if exists:
        raise UserError(f"{target} exists; choose another folder, or remove it")
    for library in {"unilm": ("torch",), "dalle": ("torch", "dall_e")}.get(format, ()):
        if importlib.util.find_spec(library) is None:
            raise UserError(f"format={format!r} needs {library}, which is not installed: {torch_writer.INSTALL}")


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder that gets its name when everything is in it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error}; choose another folder") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            temporary.replace(target)
        except OSError as error:
            raise UserError(f"{target} cannot be written: {error}; choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_ours(folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict) -> None:
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if "data" in config:  # that of a run, where the ops say it
            if not config.data.eval_ops:
                config.data.eval_ops = config.data.ops = preprocessing.to_ops(config)
            del config.preprocess
    checkpoint.save_params(folder, unflatten(flat), configs.to_json(config))


def _write_hf(folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict) -> None:
    _write_safetensors(folder, names.to_layout(flat, "hf", config.task) | names.buffers(flat, "hf", config.task))
    _write_json(folder / "config.json", settings.to_hf(config))
    _write_json(folder / "preprocessor_config.json", preprocessing.to_hf(config.preprocess))


def _write_timm(folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict) -> None:
    _write_safetensors(folder, names.to_layout(flat, "unilm", config.task))
    _write_json(folder / "config.json", settings.to_timm(config))


def _write_unilm(folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict) -> None:
    state = names.to_layout(flat, "unilm", config.task) | names.buffers(flat, "unilm", config.task)
    torch_writer.save(folder / "checkpoint.pth", state, nest="state_dict" if config.task == "segment" else "model")


def _write_dalle(folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict) -> None:
    torch_writer.save_dalle(folder, names.to_layout(flat, "dalle", config.task), config.model)


def _write_safetensors(folder: Path, state: Mapping[str, np.ndarray]) -> None:
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise UserError("to write safetensors, pip install 'beit_jax[convert]'") from error
    contiguous = {name: np.asarray(value, order="C") for name, value in state.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


ENCODERS = ("pretrain", "classify", "segment")
# By format: what writes it, and the tasks whose models it has names for.
WRITERS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "beit_jax": (_write_ours, configs.TASKS),
    "hf": (_write_hf, ENCODERS),
    "unilm": (_write_unilm, ENCODERS),
    "timm": (_write_timm, ("classify",)),
    "dalle": (_write_dalle, ("tokenizer",)),
}
