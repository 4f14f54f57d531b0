"""Makes the arrays that `npy:FOLDER` reads of a folder of TIFF files."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beit_jax.data.decoding.array_pixels import check_pixels
from beit_jax.data.sources import layout
from beit_jax.data.sources.arrays import CLASS_NAMES, IMAGE, LABEL
from beit_jax.data.sources.image_walk import subfolders
from beit_jax.data.sources.names import class_name
from beit_jax.data.sources.npy import SUFFIX
from beit_jax.data.sources.skipped import TIFF
from beit_jax.data.sources.tree import path_at, walk
from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import atomic_write
from beit_jax.runtime.bucket_retries import BucketError
from beit_jax.runtime.urls import is_bucket

SMALLER = {
    "float64": np.float32,
    "float16": np.float32,
    "int16": np.uint16,
}  # types that are not read, and what they become
PLAIN = ("MINISBLACK", "RGB")  # kinds of pixels that are numbers of each channel
MOST_BANDS = 1024


class TiffFile(NamedTuple):
    """A file, its split, and its class ("": none)."""

    path: str
    split: str
    class_name: str


class Written(NamedTuple):
    """What was written: the number of images of each split, shape `(h, w, c)` and type of each, number of classes."""

    counts: dict[str, int]
    shape: tuple[int, ...]
    dtype: str
    classes: int


def find_tiffs(root: str) -> list[TiffFile]:
    """The TIFF files below a folder, in the order of their names.

    As with `folder:`, the first folders are splits if all of them are called so, and the next ones classes; files
    beside folders have none.

    Raises:
      UserError: there are none.
    """
    splits = layout.named_splits(path_at(root), subfolders(root))
    files = []
    for split, top in (splits or {layout.REFERENCE: path_at(root)}).items():
        found = sorted(_below(str(top)))
        ways = [os.path.relpath(path, top).split(os.sep) for path in found]
        has_classes = all(len(way) > 1 for way in ways)
        names = [class_name(way[0]) if has_classes else "" for way in ways]
        files += [TiffFile(path, split, name) for path, name in zip(found, names, strict=True)]
    if not files:
        raise UserError(f"{root} holds no files that end in {' or '.join(TIFF)}")
    return files


def write_arrays(files: Sequence[TiffFile], out: Path, update: Callable[[int], object]) -> Written:
    """Writes `image.npy`, `label.npy` and `class_names.npy`, or `train_image.npy` and so on for several splits.

    The folder appears complete or not at all. One image is in memory at a time.

    Args:
      files: from `find_tiffs`.
      out: the folder; it does not exist, or is empty.
      update: is called with the number of images that were written.

    Raises:
      UserError: a file is damaged, or differs in shape or type from the first one, or a class is none of training.
    """
    by_split: dict[str, list[TiffFile]] = {}
    for file in files:
        by_split.setdefault(file.split, []).append(file)
    reference = by_split.get(layout.REFERENCE, files)
    classes = sorted({file.class_name for file in reference} - {""})
    first = read_tiff(files[0].path)
    with atomic_write(out) as part:
        part.mkdir()
        for split, some in by_split.items():
            prefix = f"{split}_" if len(by_split) > 1 else ""
            images = np.lib.format.open_memmap(
                part / f"{prefix}{IMAGE}{SUFFIX}", "w+", first.dtype, (len(some), *first.shape)
            )
            for index, file in enumerate(some):
                images[index] = _same_kind(read_tiff(file.path), file.path, first, files[0].path)
                update(1)
            images.flush()
            del images
            if all(file.class_name for file in some):
                np.save(part / f"{prefix}{LABEL}{SUFFIX}", _labels(some, classes))
        if classes:
            np.save(part / f"{CLASS_NAMES}{SUFFIX}", np.array(classes))
    counts = {split: len(some) for split, some in by_split.items()}
    return Written(counts, first.shape, str(first.dtype), len(classes))


def read_tiff(path: str) -> np.ndarray:
    """The image of a TIFF file, uint8, uint16 or float32 `[h, w, c]`; pages of one size are bands.

    Raises:
      UserError: the file is damaged, or its pixels are no numbers of bands.
      ModuleNotFoundError: the library is missing that decompresses it.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(path_at(path).read_bytes()) if is_bucket(path) else path) as file:
            series = file.series[0]
            axes, kind = series.axes, series.keyframe.photometric.name
            pixels = series.asarray()
    except BucketError:
        raise
    except Exception as error:  # of many kinds, in a damaged file
        if "imagecodecs" in str(error):
            raise ModuleNotFoundError(str(error), name="imagecodecs") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is no TIFF file, or damaged ({reason}); restore or remove it") from error
    if kind not in PLAIN:
        raise UserError(f"{path} has pixels of the kind {kind}; expected grey, RGB or bands: convert it")
    pixels = np.moveaxis(pixels, (axes.index("Y"), axes.index("X")), (0, 1))
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.dtype == np.int16 and pixels.min() < 0:
        raise UserError(
            f"{path} has the value {pixels.min()}; expected numbers from 0 on: add an offset, or save float32"
        )
    pixels = pixels.astype(SMALLER.get(pixels.dtype.name, pixels.dtype))
    if pixels.dtype == np.float32 and not np.isfinite(pixels).all():
        raise UserError(f"{path} has pixels that are no numbers (NaN, or infinite); replace them")
    try:
        check_pixels(pixels.dtype, pixels.shape[-1])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return pixels


def _below(top: str) -> list[str]:
    found = []
    for folder, folders, names in walk(top):
        folders[:] = [name for name in folders if name[0] != "."]
        found += [os.path.join(folder, name) for name in names if name[0] != "." and name.lower().endswith(TIFF)]
    return found


def _same_kind(pixels: np.ndarray, path: str, first: np.ndarray, first_path: str) -> np.ndarray:
    if (pixels.shape, pixels.dtype) == (first.shape, first.dtype):
        return pixels
    raise UserError(
        f"{path} has the shape {list(pixels.shape)} and the type {pixels.dtype}, and {first_path} has "
        f"{list(first.shape)} and {first.dtype}; expected [height, width, bands] and type of all alike: cut or resize "
        "the images, or convert those of 1 to 4 channels to PNG, which may differ in size"
    )


def _labels(files: Sequence[TiffFile], classes: Sequence[str]) -> np.ndarray:
    number = {name: index for index, name in enumerate(classes)}
    for file in files:
        if file.class_name not in number:
            raise UserError(f"{file.path} is of the class {file.class_name!r}, which is none of those to train on")
    return np.array([number[file.class_name] for file in files], np.int64)
