"""`npy:FOLDER`: a data set of `.npy` files, read as memory maps: the arrays may be larger than the memory."""

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from beit_jax.data.sources.arrays import ALIGNMENT, IMAGE, Arrays, NamedArray, check_header
from beit_jax.data.sources.examples import REFERENCE, ArrayImages
from beit_jax.errors import UserError

SUFFIX = ".npy"
SAMPLED = 512  # rows of a large array by which a change is noticed


def open_npy(folder: str) -> Arrays:
    """
    Raises:
      UserError: there is no such folder, a file of it is damaged, or its arrays are no images; see `Arrays`.
    """
    if not os.path.isdir(folder):
        found = f"{folder} is a file" if os.path.exists(folder) else f"there is no folder {folder}"
        raise UserError(f"{found}; expected the folder of image{SUFFIX}, as np.save writes it (npz:FILE for one file)")
    files = sorted(path for path in Path(folder).iterdir() if path.suffix == SUFFIX and not path.name.startswith("."))
    return Arrays(folder, {path.stem: _open(path) for path in files})


def open_images(path: str) -> ArrayImages:
    """The images of one file: `[n, h, w, c]`, or one image `[h, w, c]`.

    Raises:
      UserError: the file is damaged, or holds no images; see `Arrays`.
    """
    array = _open(Path(path))
    if len(array.shape) == 3:
        array = array._replace(shape=(1, *array.shape))
    return Arrays(path, {IMAGE: array}).examples(REFERENCE).images


def _open(path: Path) -> NamedArray:
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False) if path.stat().st_size else None
    except (OSError, ValueError, EOFError) as error:
        if "Array can't be memory-mapped" in str(error):  # NumPy's words for arrays of Python objects
            raise UserError(f"{path} holds Python objects, which could run code; save an array of numbers") from error
        raise UserError(f"{path} is damaged or cut short ({error}); restore it, or write it with np.save") from error
    if not isinstance(array, np.memmap):
        raise UserError(f"{path} is empty, or no array of np.save; restore it, or write it again")
    check_header(str(path), array.shape, not array.flags.c_contiguous, array.dtype)
    if array.offset % ALIGNMENT and array.dtype.kind != "U":
        raise UserError(f"{path} was written by a NumPy before 1.14, so that it cannot be mapped; write it again")
    # Maps are private copies on write, so that TensorFlow may take them for its own memory; nothing is written.
    return NamedArray(str(path), array.shape, array.dtype, lambda: array, functools.partial(_digest, path.stem, array))


def _digest(name: str, array: np.ndarray) -> Any:
    """Shape, type, and a hash of rows spread over the array: to read all of it would take as long as an epoch."""
    rows = np.unique(np.linspace(0, max(len(array) - 1, 0), SAMPLED).astype(np.int64))[: len(array)]
    return name, array.shape, str(array.dtype), hashlib.blake2b(array[rows].tobytes(), digest_size=16).hexdigest()
