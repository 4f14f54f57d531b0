"""Reads PyTorch's files with NumPy alone: nothing in them is run, and torch need not be installed.

A pickle is a program: it may name any function and call it. `torch.load` runs more than the pickle (archives of
TorchScript, sources of modules), so this module reads the files itself. A file may name tensors and plain containers;
classes that real checkpoints hold beside them (arguments of the run, the modules of OpenAI's dVAE) become inert
records; any other name is an error. Both of PyTorch's formats are read: zip archives, and the older plain files.

Nor can a file take more time and memory than its size allows (`read_budget.py`): sizes, counts and positions are
compared with the file before anything is allocated, and only the tensors that are asked for are read.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from beit_jax.convert import zip_members
from beit_jax.convert.pickle_interpreter import Function, Record, Window, interpret, make_dict, make_set
from beit_jax.convert.read_budget import Budget, ScriptError, UnknownKindError, UnreadableError, excerpt
from beit_jax.convert.torch_storages import Storage, StoredTensor, read_arrays
from beit_jax.errors import UserError

EXTENSIONS = (".bin", ".pth", ".pt", ".pkl")

KINDS: dict[str, type] = {
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
    ("collections", "OrderedDict"): make_dict,
    ("builtins", "set"): make_set,
    ("__builtin__", "set"): make_set,
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
INERT_NAMES = {("_codecs", "encode"), ("collections", "Counter"), ("torch", "Size"), ("torch", "device")}
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
DEEPEST_MODULE = 50

_DTYPES = {"float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}
# Tensors that PyTorch has beside dense ones: sparse, quantized, complex, of 8-bit floats, or of a class of their own.
UNKNOWN_KIND = re.compile(
    r"\w*Storage|_rebuild\w*|_get_layout|per_\w+_affine\w*|sparse_\w+|(?:complex|float8_|q?u?int)\w*"
)


class _RefusedError(Exception):
    """A pickle names something that no checkpoint needs."""


REFUSALS = (_RefusedError, ScriptError, UnknownKindError, UnreadableError)


def read_tensors(path: Path, choose: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    """The named tensors of a file. Floats are float32.

    Args:
      path: of the file.
      choose: takes the content of the file, in which tensors are not read yet, and returns the part that holds the
        named ones: a dict, or the record of a pickled module.

    Raises:
      UserError: the file is damaged, names something that checkpoints do not need, or asks for more time or memory than
        its size allows.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file; expected one that PyTorch wrote")
    try:
        with path.open("rb") as file:
            return read_named(file, choose)
    except _RefusedError as error:
        raise UserError(
            f"{path} asks to run {error}, which no checkpoint needs; nothing of it was run. Do not trust this file"
        ) from error
    except ScriptError as error:
        raise UserError(
            f"{path} is an archive of TorchScript, a program that is not run; write its weights alone with PyTorch: "
            f"torch.save(torch.jit.load({str(path)!r}, 'cpu').state_dict(), 'weights.pth')"
        ) from error
    except UnknownKindError as error:
        raise UserError(
            f"{path} holds a kind of tensor that is not read here ({error}); expected dense ones of floats or integers"
        ) from error
    except UnreadableError as error:
        raise UserError(f"{path} cannot be read ({error}); is it truncated? Download it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error


def read_named(file: BinaryIO, choose: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    """The same of an open file.

    Raises:
      one of REFUSALS: see `read_tensors`, which tells them to the user.
    """
    size = file.seek(0, 2)
    file.seek(0)
    budget = Budget(size)
    content = choose((_content_of_zip if file.read(4) == zip_members.MAGIC else _content_of_legacy)(file, size, budget))
    named = content.items() if type(content) is dict else module_tensors(content, budget)
    tensors = {name: value for name, value in named if type(name) is str and type(value) is StoredTensor}
    return read_arrays(file, tensors, budget)


class _Storages(dict[str, Storage]):
    """The storages that the pickles of a file refer to, each in one way only, by their keys."""

    def __call__(self, pid: Any) -> Any:
        """What a persistent id stands for: a storage; in legacy files also a class, whose source is ignored."""
        if type(pid) is not tuple or not pid or type(pid[0]) is not str:
            raise UnreadableError("a reference to something other than stored values")
        if pid[0] == "module" and len(pid) == 4:
            return pid[1]
        if pid[0] != "storage" or len(pid) not in (5, 6) or not isinstance(pid[1], np.dtype):
            raise UnreadableError("a reference to something other than stored values")
        if len(pid) == 6 and pid[5] is not None:
            raise UnreadableError("a view into other stored values, which is not known here")
        key, dtype, count = _storage_key(pid[2]), pid[1], pid[4]
        if type(count) is not int or count < 0:
            raise UnreadableError("an impossible number of stored values")
        storage = self.setdefault(key, Storage(key, dtype, count))
        if (storage.dtype, storage.count) != (dtype, count):
            raise UnreadableError(f"two descriptions of the stored values {excerpt(key)}")
        return storage


def _storage_key(key: Any) -> str:
    if type(key) not in (str, int):
        raise UnreadableError("a reference to something other than stored values")
    return str(key)


def _content_of_zip(file: BinaryIO, size: int, budget: Budget) -> Any:
    members = zip_members.read_members(file, budget)
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise UnreadableError("not a PyTorch file: an archive without data.pkl")
    (root,) = roots
    for name in (f"{root}data.pkl", f"{root}byteorder"):  # those of storages are checked when they are read
        if name in members:
            zip_members.check_bytes(file, name, members[name])
    if order := members.get(f"{root}byteorder"):
        _check_order(Window(file, order.start, order.start + order.size).read(min(order.size, 6)) == b"little")
    pickled = members[f"{root}data.pkl"]
    storages = _Storages()
    content = interpret(Window(file, pickled.start, pickled.start + pickled.size), _find, storages, budget)
    for key, storage in storages.items():
        member = members.get(f"{root}data/{key}")
        if member is None:
            raise UnreadableError(f"the stored values {excerpt(key)} are missing")
        if member.size != storage.size:
            raise UnreadableError(f"the stored values {excerpt(key)} are of an unexpected size")
        storage.start, storage.crc = member.start, member.crc
    return content


def _content_of_legacy(file: BinaryIO, size: int, budget: Budget) -> Any:
    window, storages = Window(file, 0, size), _Storages()

    def following() -> Any:
        return interpret(window, _find, storages, budget)

    for expected in (LEGACY_MAGIC, LEGACY_PROTOCOL):
        found = following()
        if type(found) is not int or found != expected:
            raise UnreadableError("not a PyTorch file")
    machine = following()  # byte order and sizes of the machine that wrote it
    _check_order(type(machine) is not dict or machine.get("little_endian") is not False)
    content, keys = following(), following()
    if type(keys) is not list:
        raise UnreadableError("no list of stored values")
    for key in map(_storage_key, keys):
        storage = storages.get(key)
        if storage is None or storage.start is not None:
            raise UnreadableError(f"the stored values {excerpt(key)} are listed, but not once in the tensors")
        if int.from_bytes(window.read(8), "little") != storage.count:
            raise UnreadableError(f"the stored values {excerpt(key)} are of an unexpected size")
        storage.start = window.position
        window.skip(storage.size)
    return content


def _check_order(is_little: bool) -> None:
    if not is_little:
        raise UnreadableError("numbers of a big-endian machine, which are not read here")


def _find(module: str, name: str) -> Any:
    """The replacement of a name in a pickle; never the named object itself."""
    if (module, name) in CONTAINERS:
        return Function(CONTAINERS[module, name])
    if module == "torch" and name in KINDS:
        return np.dtype(KINDS[name])
    if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        return Function(StoredTensor)
    if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        return Function(_parameter)
    inert = any(module == known or module.startswith(f"{known}.") for known in INERT_MODULES)
    if inert or (module, name) in INERT_NAMES or (module == "torch" and name in _DTYPES):
        return Function(_record)
    if module.partition(".")[0] == "torch" and UNKNOWN_KIND.fullmatch(name):
        raise UnknownKindError(excerpt(name))
    if module.partition(".")[0] == "__torch__":
        raise ScriptError
    raise _RefusedError(excerpt(f"{module}.{name}"))


def _record(*_: Any) -> Record:
    return Record()


def _parameter(tensor: Any, *_: Any) -> StoredTensor:
    if type(tensor) is not StoredTensor:
        raise UnreadableError("a parameter that is no tensor")
    return tensor


def module_tensors(module: Any, budget: Budget) -> Iterator[tuple[Any, Any]]:
    """The parameters of a pickled module and of its submodules, by their dotted names; nothing for another value.

    Raises:
      UnreadableError: a module contains itself, or is shared too often.
    """
    waiting = [("", module, 0)]
    while waiting:
        prefix, module, depth = waiting.pop()
        if depth > DEEPEST_MODULE:
            raise UnreadableError("a pickled module that contains itself")
        parameters, inner = _entries(module, "_parameters"), _entries(module, "_modules")
        names = [name for name in (*parameters, *inner) if type(name) is str]
        budget.spend(steps=1 + len(parameters) + len(inner), size=sum(len(prefix) + len(name) for name in names))
        yield from ((prefix + name, value) for name, value in parameters.items() if type(name) is str)
        waiting += [(f"{prefix}{name}.", value, depth + 1) for name, value in inner.items() if type(name) is str]


def _entries(module: Any, name: str) -> dict[Any, Any]:
    state = module.state if type(module) is Record else None
    value = state.get(name) if type(state) is dict else None
    return value if type(value) is dict else {}
