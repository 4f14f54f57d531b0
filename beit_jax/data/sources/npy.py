"""`npy:FOLDER`: a data set of `.npy` files, read as memory maps: the arrays may be larger than the memory."""

import errno
import functools
import hashlib
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from beit_jax.data.sources.arrays import ALIGNMENT, IMAGE, READ, Arrays, NamedArray, count_bytes, read_header
from beit_jax.data.sources.examples import REFERENCE, ArrayImages
from beit_jax.errors import UserError

SUFFIX = ".npy"
SAMPLED, PIECES, PIECE = 512, 4, 4096  # rows of a large array, pieces of each, and bytes of these that are hashed
# A map takes no memory until it is written to, so that none is set aside for it: the array may be larger than that.
NO_RESERVE = 0x4000 if sys.platform == "linux" else 0


def open_npy(folder: str) -> Arrays:
    """
    Raises:
      UserError: there is no such folder, a file of it is damaged, or its arrays are no images; see `Arrays`.
    """
    if not os.path.isdir(folder):
        found = f"{folder} is a file" if os.path.exists(folder) else f"there is no folder {folder}"
        raise UserError(f"{found}; expected the folder of image{SUFFIX}, as np.save writes it (npz:FILE for one file)")
    files = sorted(path for path in Path(folder).iterdir() if path.suffix == SUFFIX and not path.name.startswith("."))
    arrays = {path.stem: _open(path) for path in files if READ.fullmatch(path.stem)}
    return Arrays(folder, arrays, [path.stem for path in files if path.stem not in arrays])


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
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise UserError(f"{path} is empty; restore it, or write it with np.save")
            shape, dtype = read_header(file, str(path))
            start, expected = file.tell(), file.tell() + count_bytes(shape, dtype)
            if size < expected:
                raise UserError(
                    f"{path} is damaged or cut short ({size} of {expected} bytes); restore it, or write it with np.save"
                )
            # Private copies on write, so that TensorFlow may take them for its own memory; nothing is written.
            memory = mmap.mmap(
                file.fileno(), size, flags=mmap.MAP_PRIVATE | NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
            )
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise UserError(
                f"{path} cannot be mapped: {size / 2**30:.1f} GiB are more than the system lets a process map; raise "
                "its limits (ulimit -v; vm.overcommit_memory is not 2)"
            ) from error
        raise UserError(f"{path} cannot be read ({error.strerror}); restore it, or write it with np.save") from error
    if start % ALIGNMENT and dtype.kind != "U":
        raise UserError(f"{path} was written by a NumPy before 1.14, so that it cannot be mapped; write it again")
    array = np.ndarray(shape, dtype, buffer=memory, offset=start)
    return NamedArray(str(path), shape, dtype, lambda: array, functools.partial(_digest, path.stem, array, memory))


def _digest(name: str, array: np.ndarray, memory: mmap.mmap) -> Any:
    """Shape, type, and a hash of rows spread over the array: to read all of it would take as long as an epoch."""
    found = hashlib.blake2b(digest_size=16)
    memory.madvise(mmap.MADV_RANDOM)  # nothing is read in advance
    for row in np.unique(np.linspace(0, max(len(array) - 1, 0), SAMPLED).astype(np.int64))[: len(array)]:
        data = array[row].reshape(-1).view(np.uint8)
        starts = np.linspace(0, len(data) - PIECE, PIECES).astype(np.int64) if len(data) > PIECES * PIECE else ()
        for piece in [data[start : start + PIECE] for start in starts] or [data]:
            found.update(piece)
    memory.madvise(mmap.MADV_NORMAL)
    return name, array.shape, str(array.dtype), found.hexdigest()
