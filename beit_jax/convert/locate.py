"""Finds a checkpoint by its name, a path or a hub id, without JAX: what is missing is reported at once."""

import contextlib
import fnmatch
from collections.abc import Iterator
from pathlib import Path

from beit_jax import extras
from beit_jax.convert import hub, shards, torch_reader
from beit_jax.errors import UserError
from beit_jax.runtime import bucket
from beit_jax.runtime.checkpoint_folder import holds_checkpoint
from beit_jax.runtime.path_encoding import check_encoding
from beit_jax.runtime.paths import as_path
from beit_jax.runtime.urls import is_bucket

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in a folder, the first one that exists
SETTINGS = "*config.json"  # beside them
DALLE = ("encoder.pkl", "decoder.pkl")
SHARDED = ("hf", "data2vec", "safetensors")  # formats whose weights may be in several files


def check_name(name: str) -> Path | None:
    """The path of a checkpoint on this machine or in a bucket; None for a hub id, which may be downloaded.

    Raises:
      UserError: there is no such path, and the name is no hub id, or the hub's client is not installed.
    """
    path = as_path(name)
    _check_reachable(path, writes=False)
    try:
        if path.exists():
            _check_contents(path)
            return path
        has_runs = holds_checkpoint(path.parent)
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{name[:80]} is no path ({error.strerror}); expected a checkpoint's file or folder") from error
    if has_runs:
        found = sorted(child.name for child in path.parent.iterdir() if child.is_dir())
        raise UserError(f"{name} does not exist; {path.parent} has {', '.join(found)}")
    if not hub.is_id(name):
        raise UserError(
            f"{name} does not exist; expected a run, a checkpoint's file or folder, or a hub id such as owner/name or "
            "owner/name@revision"
        )
    try:
        extras.check_installed("huggingface_hub", "safetensors")
    except UserError as error:
        raise UserError(f"{name} does not exist here; to download it from the hub: {error}") from error
    return None


def _check_reachable(path: Path, *, writes: bool) -> None:
    if is_bucket(path):
        extras.check_installed("gcsfs")
        bucket.check_access("", str(path), writes=writes)
    else:
        check_encoding("", path)


def _check_contents(path: Path) -> None:
    if path.is_dir() and not holds_checkpoint(path) and not all((path / name).exists() for name in DALLE):
        weights_file(path)


def local_path(name: str, options: hub.Options = hub.DEFAULT) -> Path:
    """The path of a checkpoint; a hub id is downloaded into the cache of `huggingface_hub`, or found there.

    The weights of another library are copied out of a bucket; those of a run are read where they lie.

    Raises:
      UserError: there is no such path, and the hub does not give such an id.
    """
    if path := check_name(name):
        if options.revision:
            raise UserError(f"revision={options.revision} is given, but {name} is a path; expected it with a hub id")
        return _fetch(path) if is_bucket(path) and not holds_checkpoint(path) else path
    repository, options = hub.parse(name, options)
    for weights in WEIGHTS:
        patterns = [weights, f"{weights}{shards.INDEX}", SETTINGS]
        folder, options = hub.download(repository, patterns, options)
        if (folder / weights).exists():
            return folder
        if (index := folder / f"{weights}{shards.INDEX}").exists():
            hub.download(repository, list(shards.files_of(index)), options)
            return folder
    folder, _ = hub.download(repository, list(DALLE), options)
    if all((folder / file).exists() for file in DALLE):
        return folder
    raise UserError(f"{name} has none of {', '.join(WEIGHTS)} on the hub")


def _fetch(path: Path) -> Path:
    """A copy of a file of weights, or of the folder of one, without what is not read, and with the settings beside."""
    from beit_jax.runtime.bucket_path import local_copy

    if not path.is_dir():
        folder, weights = path.parent, [path.name]
    elif all((path / name).exists() for name in DALLE):
        folder, weights = path, [*DALLE]
    else:
        folder, weights = path, [weights_file(path).name]
    if weights[0].endswith(shards.INDEX):
        weights += shards.files_of(local_copy(folder, *weights) / weights[0])
    beside = [file.name for file in folder.iterdir()]
    copy = local_copy(folder, *(name for name in beside if name in weights or fnmatch.fnmatch(name, SETTINGS)))
    return copy if folder == path else copy / path.name


@contextlib.contextmanager
def named(copy: Path, name: str) -> Iterator[None]:
    """Errors of the block name a checkpoint in a bucket in place of its copy.

    Args:
      copy: what `local_path` returned.
      name: that a user gave.
    """
    try:
        yield
    except UserError as error:
        if not is_bucket(name) or is_bucket(copy):
            raise
        parents = str(copy.parent), str(as_path(name).parent)
        raise UserError(*(line.replace(*parents) for line in error.args)) from error


def weights_file(folder: Path) -> Path:
    """The file with the tensors, or the index of several, in the folder of another library.

    Raises:
      UserError: there is none, or there are several.
    """
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
        if (index := folder / f"{name}{shards.INDEX}").exists():
            return index
    candidates = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", *torch_reader.EXTENSIONS))
    if len(candidates) != 1:
        names = ", ".join(path.name for path in candidates) or "no checkpoint"
        run = "" if candidates else "a run (with checkpoints/ in it), "
        raise UserError(f"{folder} holds {names}; expected {run}{' or '.join(WEIGHTS)}, or name the file")
    return candidates[0]


def check_target(target: Path, format: str) -> None:
    """Checks the target before anything is read.

    Raises:
      UserError: the target exists, its path is not in UTF-8, its bucket cannot be written, or the format needs a
        library that is not installed.
    """
    _check_reachable(target, writes=True)
    try:
        exists = target.exists() or target.is_symlink()
    except OSError as error:
        raise UserError(f"{str(target)[:80]} cannot be written ({error.strerror}); choose another folder") from error
    if exists:
        raise UserError(f"{target} exists; choose another folder, or remove it")
    needed = {"timm": ("safetensors",)} | dict.fromkeys(SHARDED, ("safetensors", "huggingface_hub"))
    needed |= {"unilm": ("torch",), "dalle": ("torch", "dall_e")}
    extras.check_installed(*needed.get(format, ()))
