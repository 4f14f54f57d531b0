"""Libraries that not every installation has: which extra of the package brings each, and how to install it."""

import importlib.metadata
import importlib.util
import json
import os
from pathlib import Path

from beit_jax.errors import UserError

EXTRA_OF = {
    "tensorflow": "data",
    "tensorflow_datasets": "data",
    "importlib_resources": "data",
    "sklearn": "data",
    "tqdm": "data",
    "pyarrow": "data",
    "matplotlib": "data",
    "safetensors": "convert",
    "huggingface_hub": "convert",
    "torch": "parity",
    "transformers": "parity",
    "skimage": "test",
    "tifffile": "tiff",
    "imagecodecs": "tiff",
    "apache_beam": "beam",
    "gcsfs": "gcs",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
    "libtpu": "tpu",
    "jax_plugins.xla_cuda13": "cuda13",
}
ALONE = {"timm": "timm", "dall_e": "--no-deps dall-e attrs"}  # libraries that no extra brings: what pip installs


def check_installed(*libraries: str) -> None:
    """Checks that libraries can be imported, without importing them.

    Raises:
      UserError: one line for each way to install what is missing.
    """
    missing = [library for library in libraries if not _is_installed(library)]
    by_command: dict[str, list[str]] = {}
    for library in missing:
        by_command.setdefault(install_command(library), []).append(library)
    if missing:
        raise UserError(*(_describe(names, command) for command, names in by_command.items()))


def missing_library(error: ImportError) -> UserError | None:
    """What to tell a user in place of a failed import; None if the library is not one that an extra brings."""
    library = (error.name or "").partition(".")[0]
    is_missing = isinstance(error, ModuleNotFoundError) and (library in EXTRA_OF or library in ALONE)
    return UserError(_describe([library], install_command(library))) if is_missing else None


def install_command(library: str) -> str:
    """The command that installs a library, as it can be typed here."""
    if library in ALONE:
        return f"pip install {ALONE[library]}"
    clone, extra = Path(__file__).resolve().parents[1], EXTRA_OF[library]
    if not (clone / "setup.py").is_file():
        return f"pip install '{_installed_from(extra)}'"
    if clone != Path(os.getcwd()).resolve():
        return f"pip install -e '{clone}[{extra}]'"
    return f"pip install -e '.[{extra}]'"


def _installed_from(extra: str) -> str:
    """What pip installed this package from, with an extra: a wheel, or a name on an index (PEP 610)."""
    try:
        stated = importlib.metadata.distribution("beit_jax").read_text("direct_url.json") or "{}"
    except importlib.metadata.PackageNotFoundError:
        stated = "{}"
    address = json.loads(stated).get("url", "")
    return f"beit_jax[{extra}] @ {address}" if address else f"beit_jax[{extra}]"


def _describe(libraries: list[str], command: str) -> str:
    return f"{' and '.join(libraries)} {'is' if len(libraries) == 1 else 'are'} not installed; run: {command}"


def _is_installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except (ImportError, ValueError):  # ValueError: a module that something else put in place, without a spec
        return False
