"""Finds a checkpoint by its name, a path or a hub id, without JAX: what is missing is reported at once."""

import errno
import re
from pathlib import Path

from beit_jax import extras
from beit_jax.convert import torch_reader
from beit_jax.errors import UserError
from beit_jax.runtime.checkpoint_folder import holds_checkpoint
from beit_jax.runtime.path_encoding import check_encoding

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in a folder, the first one that exists
DALLE = ("encoder.pkl", "decoder.pkl")
UNWRITABLE = (errno.EACCES, errno.ENOTDIR, errno.EPERM, errno.EROFS)
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def check_name(name: str) -> Path | None:
    """The path of a checkpoint that is on this machine; None for a hub id, which may be downloaded.

    Raises:
      UserError: there is no such path, and the name is no hub id, or the hub's client is not installed.
    """
    path = Path(name).expanduser()
    check_encoding("", path)
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
    if not HUB_ID.fullmatch(name):
        raise UserError(
            f"{name} does not exist; expected a run, a checkpoint's file or folder, or a hub id such as owner/name"
        )
    try:
        extras.check_installed("huggingface_hub", "safetensors")
    except UserError as error:
        raise UserError(f"{name} does not exist here; to download it from the hub: {error}") from error
    return None


def _check_contents(path: Path) -> None:
    if path.is_dir() and not holds_checkpoint(path) and not all((path / name).exists() for name in DALLE):
        weights_file(path)


def local_path(name: str) -> Path:
    """The path of a checkpoint; a hub id is downloaded into the cache of `huggingface_hub`, or found there.

    Raises:
      UserError: there is no such path, and the hub does not give such an id.
    """
    if path := check_name(name):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    for weights in WEIGHTS:
        try:
            folder = Path(snapshot_download(name, allow_patterns=[weights, f"{weights}.index.json", "*config.json"]))
        except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            no_cache = getattr(error, "errno", None) in UNWRITABLE
            advice = "set HF_HOME to a folder that can be written" if no_cache else "check the id and the network"
            raise UserError(f"{name} does not exist here, and the hub did not give it ({reason}); {advice}") from error
        if (folder / weights).exists():
            return folder
    raise UserError(f"{name} has none of {', '.join(WEIGHTS)} on the hub")


def weights_file(folder: Path) -> Path:
    """The file with the tensors, in the folder of another library.

    Raises:
      UserError: there is none, or there are several.
    """
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
        if (folder / f"{name}.index.json").exists():
            raise UserError(
                f"{folder} is a checkpoint in several files, expected one; save it again with a larger max_shard_size"
            )
    candidates = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", *torch_reader.EXTENSIONS))
    if len(candidates) != 1:
        names = ", ".join(path.name for path in candidates) or "no checkpoint"
        run = "" if candidates else "a run (with checkpoints/ in it), "
        raise UserError(f"{folder} holds {names}; expected {run}{' or '.join(WEIGHTS)}, or name the file")
    return candidates[0]


def check_target(target: Path, format: str) -> None:
    """Checks the target before anything is read.

    Raises:
      UserError: the target exists, its path is not in UTF-8, or the format needs a library that is not installed.
    """
    check_encoding("", target)
    try:
        exists = target.exists() or target.is_symlink()
    except OSError as error:
        raise UserError(f"{str(target)[:80]} cannot be written ({error.strerror}); choose another folder") from error
    if exists:
        raise UserError(f"{target} exists; choose another folder, or remove it")
    needed = dict.fromkeys(("hf", "timm", "data2vec"), ("safetensors",))
    needed |= {"unilm": ("torch",), "dalle": ("torch", "dall_e")}
    extras.check_installed(*needed.get(format, ()))
