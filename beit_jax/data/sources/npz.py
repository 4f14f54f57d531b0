"""`npz:FILE`: a data set in one `.npz` file, which is held in memory. No pickle is read."""

import functools
import os
import zipfile
import zlib

import numpy as np

from beit_jax.data.sources.arrays import ALIGNMENT, READ, Arrays, NamedArray, count_bytes, read_header
from beit_jax.errors import UserError
from beit_jax.runtime.host_memory import available_bytes

SUFFIX = ".npy"  # of the members
PIECE = 2**24  # bytes that are decompressed at a time: as many are in memory a second time


def open_npz(path: str) -> Arrays:
    """
    Raises:
      UserError: there is no such file, it is damaged, or its arrays are no images; see `Arrays`.
    """
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; expected a file, or npy:{path} for a folder of .npy files")
    if not os.path.isfile(path):
        raise UserError(f"there is no file {path}; expected an .npz file of arrays, as np.savez writes it")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(SUFFIX)]
            names = {info.filename.removesuffix(SUFFIX): info for info in members}
            arrays = {name: _read_header(path, archive, info) for name, info in names.items() if READ.fullmatch(name)}
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, error) from error
    return Arrays(path, arrays, [name for name in names if name not in arrays])


def _read_header(path: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NamedArray:
    name = info.filename.removesuffix(SUFFIX)
    where = f"{name} of {path}"
    with archive.open(info) as member:
        shape, dtype = read_header(member, where)
        size = member.tell() + count_bytes(shape, dtype)
    if size != info.file_size:
        raise UserError(f"{where} has {info.file_size} bytes, expected {size} by its header; save it again")
    status = os.stat(path)
    load = functools.partial(_load, path, name, status.st_size, status.st_mtime_ns)
    return NamedArray(where, shape, dtype, load, lambda: (name, info.file_size, info.CRC))


@functools.lru_cache(maxsize=8)  # the splits of a file share its arrays
def _load(path: str, name: str, size: int, changed: int) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}{SUFFIX}") as member:
            where = f"{name} of {path}"
            array = _aligned(*read_header(member, where), where)
            data, done = memoryview(array.reshape(-1).view(np.uint8)), 0
            while count := member.readinto(data[done : done + PIECE]):
                done += count
            if done < array.nbytes:
                raise EOFError(f"{done} of {array.nbytes} bytes")
            member.read(1)  # at its end the checksum is compared
            return array
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _damaged(path, error) from error


def _aligned(shape: tuple[int, ...], dtype: np.dtype, where: str) -> np.ndarray:
    """An array in memory that TensorFlow can use as it is."""
    size, free = count_bytes(shape, dtype), available_bytes()
    if free is not None and size > free:
        raise UserError(
            f"{where} takes {size / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free; write each array "
            "with np.save into a folder, and read it with npy:FOLDER"
        )
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _damaged(path: str, error: Exception) -> UserError:
    with open(path, "rb") as file:
        is_zip = file.read(2) == b"PK"
    what = "is damaged or cut short" if is_zip else "is no .npz file"
    return UserError(f"{path} {what} ({error}); restore it, or write it again with np.savez")
