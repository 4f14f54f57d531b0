"""Files of safetensors. Those that this library writes hold a CRC-32 of every tensor; the format itself has none.

The checksums are in the metadata of the file, which the readers of other libraries pass over.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from beit_jax import extras
from beit_jax.convert.read_budget import excerpt
from beit_jax.convert.torch_storages import as_float32
from beit_jax.errors import UserError

CHECKSUMS = "crc32"  # in the metadata: JSON of {name of a tensor: CRC-32 of its bytes, in hexadecimal}


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors of any shapes by their names, as a file for PyTorch."""
    from safetensors.numpy import save_file

    contiguous = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    sums = {name: _checksum(value) for name, value in contiguous.items()}
    save_file(contiguous, path, metadata={"format": "pt", CHECKSUMS: json.dumps(sums, sort_keys=True)})


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors by their names, floats in float32.

    Raises:
      UserError: the file cannot be read, is of another framework, or does not have the checksums that it states.
    """
    extras.check_installed("safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except AttributeError as error:  # it asks NumPy for types that NumPy does not have
        raise UserError(
            f"{path} holds numbers of 8 bits or fewer ({excerpt(str(error))}); expected float16, bfloat16 or float32"
        ) from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        reason = excerpt(str(error))
        raise UserError(f"{path} cannot be read ({reason}); is it truncated? Download it again") from error
    written_by = metadata.get("format", "pt")
    if written_by not in ("pt", "np"):
        raise UserError(
            f"{path} was written for the framework {excerpt(repr(written_by))}, whose axes may be in another order; "
            "expected a file for PyTorch ('pt')"
        )
    if CHECKSUMS in metadata:
        _check(tensors, metadata[CHECKSUMS], path)
    return {name: as_float32(value) for name, value in tensors.items()}


def _check(tensors: Mapping[str, np.ndarray], stated: str, path: Path) -> None:
    try:
        expected = dict(json.loads(stated))
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"{path} is damaged: its checksums cannot be read; copy or download it again") from None
    found = {name: _checksum(value) for name, value in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise UserError(
                f"{path} is damaged: {excerpt(name)} does not have the checksum that was written with it; copy or "
                f"download it again. A program that changes tensors must leave out {CHECKSUMS!r} of the file's metadata"
            )


def _checksum(values: np.ndarray) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8)):08x}"
