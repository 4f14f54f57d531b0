"""Reads PyTorch's files with NumPy alone: nothing in them is run, and torch need not be installed.

A pickle is a program: it may name any function and call it. `torch.load` runs more than the pickle (archives of
TorchScript, sources of modules), so this module reads the files itself. A file may name tensors and plain containers;
classes that real checkpoints hold beside them (arguments of the run, the modules of OpenAI's dVAE) become inert
records; any other name is an error. Both of PyTorch's formats are read: zip archives, and the older plain files.
"""

import collections
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from beit_jax.errors import UserError

EXTENSIONS = (".bin", ".pth", ".pt", ".pkl", ".ckpt")

KINDS = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
CONTAINERS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}
INERT_MODULES = (
    "apex",
    "argparse",
    "dall_e",
    "datetime",
    "deepspeed",
    "mmcv",
    "numpy",
    "pathlib",
    "timm",
    "torch.nn.modules",
)
INERT_NAMES = {("_codecs", "encode"), ("torch", "Size"), ("torch", "device")}
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class _RefusedError(Exception):
    """A pickle names something that no checkpoint needs."""


class Record:
    """Replaces an object that is read and not used: takes any state, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            vars(self).update(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class _Kind:
    """A type of storage. Like `_Call`, without attributes that a pickle could set."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: Any):
        self.dtype = np.dtype(dtype)


class _Call:
    """A function that a pickle may call."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


def _tensor_of(values: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    """A view of stored values, within their bounds and not larger than they are."""
    if not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)) or len(shape) != len(strides):
        raise ValueError("a tensor with an impossible shape")
    reach = offset + sum((n - 1) * stride for n, stride in zip(shape, strides)) + 1
    if math.prod(shape) and (reach > values.size or math.prod(shape) > values.size):
        raise ValueError("a tensor that reaches beyond what is stored")
    steps = [stride * values.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)


class _Unpickler(pickle.Unpickler):
    """Reads one pickle; `storage(key, dtype, count)` gives the values that it refers to."""

    def __init__(self, file: BinaryIO, storage: Callable[[str, np.dtype, int], np.ndarray]):
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """The replacement of a name in the pickle; never the named object itself."""
        if (module, name) in CONTAINERS:
            return CONTAINERS[module, name]
        if module == "torch" and name in KINDS:
            return _Kind(KINDS[name])
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _Call(_tensor_of)
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return _Call(lambda tensor, *_: tensor)
        if module == "torch._utils" and name.startswith("_rebuild"):
            raise ValueError(f"a kind of tensor that is not known here, {name}")
        inert = any(module == known or module.startswith(f"{known}.") for known in INERT_MODULES)
        if inert or (module, name) in INERT_NAMES or (module == "torch" and name in _DTYPES):
            return Record
        raise _RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """The stored values that a pickle refers to."""
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            return pid[1]  # legacy: a class and its source, which is ignored
        if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage" and isinstance(pid[1], _Kind)):
            raise ValueError("a reference to something other than stored values")
        if len(pid) == 6 and pid[5] is not None:
            raise ValueError("a view into other stored values, which is not known here")
        key, count = pid[2], pid[4]
        if type(count) is not int or count < 0:
            raise ValueError("an impossible number of stored values")
        return self._storage(str(key), pid[1].dtype, count)


_DTYPES = {"float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}


def load_pickle(path: Path) -> Any:
    """The content of a file: tensors as NumPy arrays, other objects as inert `Record`s.

    Raises:
      UserError: the file is damaged, or names something that checkpoints do not need.
    """
    try:
        with path.open("rb") as file:
            return _load_zip(file) if zipfile.is_zipfile(file) else _load_legacy(file)
    except _RefusedError as error:
        raise UserError(
            f"{path} asks to run {error}, which no checkpoint needs; nothing of it was run. Do not trust this file"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UserError(f"{path} cannot be read ({reason}); is it truncated? Download it again") from error


def _load_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("not a PyTorch file")
        root = roots[0]
        cache: dict[tuple[str, np.dtype], np.ndarray] = {}

        def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
            if (key, dtype) not in cache:
                record = archive.getinfo(f"{root}data/{key}")
                if record.file_size != count * dtype.itemsize or record.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"stored values of an unexpected size ({record.filename})")
                cache[key, dtype] = np.frombuffer(archive.read(record), dtype)
            return cache[key, dtype]

        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("numbers of a machine with the other byte order")
        with archive.open(f"{root}data.pkl") as pickled:
            return _Unpickler(pickled, storage).load()


def _load_legacy(file: BinaryIO) -> Any:
    size = file.seek(0, 2)
    file.seek(0)

    def plain() -> Any:
        return _Unpickler(file, lambda *_: np.empty(0)).load()

    if plain() != LEGACY_MAGIC or plain() != LEGACY_PROTOCOL:
        raise ValueError("not a PyTorch file")
    machine = plain()
    if isinstance(machine, dict) and machine.get("little_endian", True) is not True:
        raise ValueError("numbers of a machine with the other byte order")
    stored: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        if count * dtype.itemsize > size:
            raise ValueError("more values than the file holds")
        return stored.setdefault(key, np.empty(count, dtype))

    content = _Unpickler(file, storage).load()
    for key in plain():
        values = stored[str(key)]
        (count,) = np.frombuffer(file.read(8), "<i8")
        if count != values.size:
            raise ValueError("stored values of an unexpected size")
        values[...] = np.frombuffer(file.read(values.nbytes), values.dtype)
    return content
