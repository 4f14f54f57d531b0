"""Stored values of PyTorch's files, and tensors as views of them: nothing is read before every bound is checked."""

import collections
import math
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from beit_jax.convert.read_budget import Budget, UnknownKindError, UnreadableError, excerpt

LARGEST = 1 << 56  # of a product of sizes, which in bytes must be less than 2 ** 63
MOST_AXES = 32


class Storage:
    """Values that lie in the file; only the reader makes these, and a tensor takes no others."""

    __slots__ = ("count", "crc", "dtype", "name", "start")

    def __init__(self, name: str, dtype: np.dtype, count: int):
        self.name, self.dtype, self.count = name, dtype, count
        self.start: int | None = None  # unknown before the reader finds the values
        self.crc: int | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * self.dtype.itemsize

    def read(self, file: BinaryIO) -> np.ndarray:
        """The values `[count]`.

        Raises:
          UnreadableError: they are missing or damaged.
        """
        if self.start is None:
            raise UnreadableError(f"the stored values {excerpt(self.name)} are missing")
        values = np.empty(self.size, np.uint8)
        file.seek(self.start)
        if file.readinto(values) != self.size:
            raise UnreadableError(f"it ends within the stored values {excerpt(self.name)}")
        if self.crc is not None and zlib.crc32(values) != self.crc:
            raise UnreadableError(f"the stored values {excerpt(self.name)} are damaged")
        return values != 0 if self.dtype == np.bool_ else values.view(self.dtype)


class StoredTensor:
    """A view of a storage, within its bounds."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any):
        """
        Args:
          storage: a `Storage`.
          offset: of the first value.
          shape: of the tensor.
          strides: in values, for each axis.

        Raises:
          UnreadableError: one of these is of another kind, or they reach beyond what is stored.
        """
        if type(storage) is not Storage:
            raise UnreadableError("a tensor of something other than stored values")
        if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
            raise UnreadableError("a tensor with an impossible shape")
        if len(shape) > MOST_AXES or not all(type(n) is int and 0 <= n < LARGEST for n in (offset, *shape, *strides)):
            raise UnreadableError("a tensor with an impossible shape")
        if math.prod(max(n, 1) for n in shape) > LARGEST:
            raise UnreadableError("a tensor with an impossible shape")
        reach = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1
        if math.prod(shape) and reach > storage.count:
            raise UnreadableError("a tensor that reaches beyond what is stored")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    @property
    def size(self) -> int:
        """Bytes of the array that is made of it."""
        return math.prod(self.shape) * (4 if is_floating(self.storage.dtype) else self.storage.dtype.itemsize)

    def of(self, values: np.ndarray) -> np.ndarray:
        """The view of the storage's values."""
        if not math.prod(self.shape):
            return np.empty(self.shape, values.dtype)
        steps = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps)


def read_arrays(file: BinaryIO, tensors: Mapping[str, StoredTensor], budget: Budget) -> dict[str, np.ndarray]:
    """Reads tensors; of the storages, only those that they need, each once, and in the order of the tensors.

    Raises:
      UnreadableError: values are missing or damaged, or the tensors together are too large.
      UnknownKindError: a tensor repeats its values.
    """
    for name, tensor in tensors.items():
        if math.prod(tensor.shape) > tensor.storage.count:
            raise UnknownKindError(f"{excerpt(name)}, {tensor.shape} of {tensor.storage.count} values")
    budget.spend(steps=len(tensors), size=sum(tensor.size for tensor in tensors.values()))
    uses = collections.Counter(tensor.storage for tensor in tensors.values())
    shared = {storage for storage, count in uses.items() if count > 1}
    read: dict[Storage, np.ndarray] = {}
    arrays = {}
    for name, tensor in tensors.items():
        storage = tensor.storage
        values = read.pop(storage) if storage in read else storage.read(file)
        uses[storage] -= 1
        if uses[storage]:
            read[storage] = values
        alone = storage not in shared and math.prod(tensor.shape) == values.size  # then no copy is needed
        arrays[name] = as_float32(tensor.of(values), copy=None if alone else True)
    return arrays


def is_floating(dtype: np.dtype) -> bool:
    """Whether numbers of this type are floating, bfloat16 included."""
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


def as_float32(values: np.ndarray, copy: bool | None = None) -> np.ndarray:
    """A contiguous array, of floating numbers in float32; the same one if it is so already, unless `copy` is True."""
    with np.errstate(all="ignore"):  # numbers that become infinite are told with those that were
        return np.array(values, np.float32 if is_floating(values.dtype) else values.dtype, order="C", copy=copy)
