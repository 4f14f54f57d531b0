"""Data sets of named arrays: `image` and `label`, or `train_image`, `train_label`, `eval_image`, ... for splits."""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from beit_jax.data.decoding.array_pixels import check_pixels
from beit_jax.data.sources.examples import REFERENCE, ArrayImages, Examples, check_labels, count_classes, listed
from beit_jax.data.sources.names import class_name
from beit_jax.errors import UserError

ALIGNMENT = 64  # bytes: TensorFlow reads an array where it is if it begins at a multiple of these
IMAGE, LABEL, CLASS_NAMES = "image", "label", "class_names"
READ = re.compile(rf"(?:\w+_)?(?:{IMAGE}|{LABEL})|{CLASS_NAMES}")  # names of arrays that are read; others do not count
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
EXPECTED = "image [n, h, w, c] and label [n], or NAME_image and NAME_label for each split NAME, such as train_image"


class NamedArray(NamedTuple):
    """An array of which only the header is read.

    Attributes:
      where: its name and its file, for messages.
      shape: of it.
      dtype: of its numbers.
      load: returns the array.
      digest: returns what changes with its contents.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[], np.ndarray]
    digest: Callable[[], Any]


class Arrays:
    """A `DataSet`.

    Args:
      path: of the file or the folder.
      arrays: those in it whose names `READ` matches; `class_names` `[k]` are texts.
      others: names of the other arrays in it.

    Raises:
      UserError: there are no images, or what is called so are none.
    """

    def __init__(self, path: str, arrays: Mapping[str, NamedArray], others: Sequence[str] = ()):
        self._path, self._arrays = path, arrays
        names = [match[1] or "" for match in map(re.compile(rf"(?:(\w+)_)?{IMAGE}").fullmatch, arrays) if match]
        if not names:
            found = f"the arrays {listed(sorted([*arrays, *others]))}" if arrays or others else "no arrays"
            raise UserError(f"{path} has {found}; expected {EXPECTED}")
        if "" in names and REFERENCE in names:
            raise UserError(f"{path} has both {IMAGE} and {REFERENCE}_{IMAGE}, the same split; keep one of them")
        self._prefixes = {name or REFERENCE: f"{name}_" if name else "" for name in names}
        self.splits = tuple(sorted(self._prefixes, key=lambda name: (name != REFERENCE, name)))
        for name in self.splits:
            self._images(name)
        self._check_no_labels_are_lost()

    def _check_no_labels_are_lost(self) -> None:
        """Raises UserError for the labels of a split that has no images, while images have no labels."""
        bare = [name for name in self._prefixes.values() if f"{name}{LABEL}" not in self._arrays]
        for prefix in ("", f"{REFERENCE}_"):
            if bare and prefix not in self._prefixes.values() and f"{prefix}{LABEL}" in self._arrays:
                raise UserError(
                    f"{self._path} has {prefix}{LABEL}, but no {prefix}{IMAGE}; call the labels of {bare[0]}{IMAGE} "
                    f"{bare[0]}{LABEL}"
                )

    def examples(self, split: str) -> Examples:
        """See `DataSet`."""
        images, names = self._images(split), self._class_names()
        labels = self._labels(split, len(names))
        if labels is None:
            return Examples(images, images.shape[0], None, 1, (), images.digest)
        reference = self._labels(REFERENCE, len(names)) if REFERENCE in self.splits else None
        classes = len(names) or count_classes(labels if reference is None else reference)
        labels = self._labels(split, classes)
        digest = functools.partial(_digest, images, labels)
        return Examples(images, images.shape[0], labels, classes, names, digest)

    def _images(self, split: str) -> ArrayImages:
        array = self._arrays[f"{self._prefixes[split]}{IMAGE}"]
        shape = array.shape if len(array.shape) != 3 else (*array.shape, 1)
        if len(shape) != 4 or 0 in shape:
            raise UserError(f"{array.where} has the shape {list(array.shape)}; expected [n, h, w, c] or [n, h, w]")
        try:
            check_pixels(array.dtype, shape[-1])
        except UserError as error:
            raise UserError(f"{array.where}: {error}") from None
        if shape[1] in (1, 3) and shape[-1] not in (1, 3):
            raise UserError(
                f"{array.where}: found images {shape[1]} pixels high, with {shape[-1]} channels, the last axis: move "
                "the axis of the channels to the end"
            )
        return ArrayImages(array.where, shape, lambda: array.load().reshape(shape), array.digest)

    def _labels(self, split: str, num_classes: int) -> np.ndarray | None:
        array = self._arrays.get(f"{self._prefixes[split]}{LABEL}")
        if array is None:
            return None
        count = self._images(split).shape[0]
        if array.shape != (count,):
            raise UserError(
                f"{array.where} has the shape {list(array.shape)}; expected [{count}], a label for each image"
            )
        return check_labels(np.asarray(array.load()), array.where, count, num_classes)

    def _class_names(self) -> tuple[str, ...]:
        array = self._arrays.get(CLASS_NAMES)
        if array is None:
            return ()
        if len(array.shape) != 1 or array.dtype.kind != "U":
            raise UserError(
                f"{array.where} has the shape {list(array.shape)} and the type {array.dtype}; expected a list of texts"
            )
        names = tuple(class_name(str(name)) for name in array.load())
        if len(set(names)) < len(names):
            raise UserError(f"{array.where} names a class twice; expected {len(names)} different names")
        return names


def _digest(images: ArrayImages, labels: np.ndarray) -> Any:
    return images.digest(), labels.tobytes()


def read_header(file: BinaryIO, where: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that a file in NumPy's format holds; its numbers follow.

    Raises:
      UserError: it is none, or one that is not read.
    """
    try:
        shape, fortran_order, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    except (ValueError, KeyError) as error:
        raise UserError(f"{where} is no array of NumPy ({error}); save it again with NumPy") from error
    if dtype.hasobject:
        raise UserError(f"{where} holds Python objects, which could run code; save an array of numbers")
    if fortran_order and len(shape) > 1:
        raise UserError(f"{where} is stored column by column; save np.ascontiguousarray of it")
    if not dtype.isnative and dtype.kind != "U":
        raise UserError(f"{where} has the byte order of another kind of machine; save it again on this one")
    return shape, dtype


def count_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Of an array."""
    return math.prod(shape) * dtype.itemsize
