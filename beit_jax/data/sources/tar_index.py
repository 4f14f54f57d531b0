"""What lies where in a tar file. Its headers are read once, and kept in the cache until the file changes.

Nothing is extracted, and the names in an archive are text for messages alone, never paths.
"""

import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beit_jax.data.sources.image_walk import EXTENSIONS
from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import atomic_write
from beit_jax.runtime.cache_folder import cache_folder

FORMAT = 1  # of the kept files
IMAGES = tuple(extension[1:] for extension in EXTENSIONS)
CLASS, METADATA, LABEL = "cls", "json", "label"
MOST_BYTES = {CLASS: 1024, METADATA: 2**20}  # of a label; more is none
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7z": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
DAMAGE = (tarfile.TarError, OSError, ValueError, EOFError, OverflowError, IndexError, RecursionError)


class TarIndex(NamedTuple):
    """The images of a tar file, in its order.

    Attributes:
      offsets: int64 `[n]`, of the first byte of each.
      sizes: int64 `[n]`, in bytes.
      names: bytes `[n]`, as in the archive.
      labels: int32 `[n]`, indices in `texts`; -1: none.
      texts: `[k]`, the different labels as they are written.
      others: `[m]`, the different extensions of what is neither an image nor a label.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    texts: np.ndarray
    others: np.ndarray


def index_tar(path: str) -> TarIndex:
    """
    Raises:
      UserError: the file is no tar file, is compressed, damaged or cut short, or names an image twice.
    """
    status = os.stat(path)
    key = repr((FORMAT, os.path.realpath(path), status.st_size, status.st_mtime_ns)).encode()
    kept = cache_folder() / "tars" / f"{hashlib.blake2b(key, digest_size=16).hexdigest()}.npz"
    if (found := _load(kept)) is not None:
        return found
    index = _read(path)
    try:
        with atomic_write(kept) as part, open(part, "wb") as file:
            np.savez(file, **index._asdict())
    except OSError:
        pass  # the headers are read again next time
    return index


def _load(kept: Path) -> TarIndex | None:
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            return TarIndex(**{name: arrays[name] for name in TarIndex._fields})
    except Exception:  # whatever is wrong with the file, it is made again
        return None


class _Sample(NamedTuple):
    """Where the parts of one example are: (offset, size)."""

    image: tuple[str, int, int]
    parts: dict[str, tuple[int, int]]


def _read(path: str) -> TarIndex:
    with open(path, "rb") as file:
        start = file.read(4)
    for magic, kind in COMPRESSED.items():
        if start.startswith(magic):
            raise UserError(
                f"{path} is compressed ({kind}), so that its images cannot be read one by one; decompress it once, "
                "such as with gunzip: images do not get smaller by it"
            )
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            samples, others = _samples(path, tar)
            _check_end(path, file, tar.offset)
            labels = [_label(path, file, key, sample) for key, sample in samples.items()]
    except DAMAGE as error:
        raise UserError(f"{path} is no tar file, or damaged or cut short ({error}); restore it") from error
    texts = sorted(set(labels) - {""})
    number = {text: index for index, text in enumerate(texts)} | {"": -1}
    images = [sample.image for sample in samples.values()]
    return TarIndex(
        np.array([offset for _, offset, _ in images], np.int64),
        np.array([size for *_, size in images], np.int64),
        np.array([name.encode("utf-8", "backslashreplace") for name, *_ in images], bytes),
        np.array([number[label] for label in labels], np.int32),
        np.array(texts, str),
        np.array(others, str),
    )


def _samples(path: str, tar: tarfile.TarFile) -> tuple[dict[str, _Sample], list[str]]:
    """The examples by their keys, and the extensions that are not read."""
    images: dict[str, tuple[str, int, int]] = {}
    parts: dict[str, dict[str, tuple[int, int]]] = {}
    others, position = set(), -1
    while member := tar.next():
        tar.members.clear()  # which would grow with the file
        if not position < member.offset < member.offset_data:
            raise UserError(f"{path} is damaged: a header leads back; restore it")
        position = member.offset
        folder, name = os.path.split(member.name)
        if not member.isreg() or name.startswith("."):
            continue
        stem, _, extension = name.partition(".")
        key, extension = os.path.join(folder, stem), extension.lower()
        if member.sparse is not None:
            raise UserError(f"{path} holds {member.name} as a sparse file; write the archive again without --sparse")
        if extension in IMAGES:
            if key in images:
                raise UserError(
                    f"{path} holds two images {images[key][0]} and {member.name}; expected one of each name"
                )
            images[key] = member.name, member.offset_data, member.size
        elif extension in MOST_BYTES:
            parts.setdefault(key, {})[extension] = member.offset_data, member.size
        else:
            others.add(extension[:20])
    return {key: _Sample(image, parts.get(key, {})) for key, image in images.items()}, sorted(others)


def _check_end(path: str, file, offset: int) -> None:
    """Python takes an archive for complete that ends at a damaged header, or between two of its files."""
    file.seek(offset)
    end = file.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE:
        raise UserError(f"{path} is cut short: it has no end mark; restore it")
    if any(end):
        raise UserError(f"{path} is damaged: found no header at byte {offset:,}; restore it")
    if any(file.read(2**16)):
        raise UserError(f"{path} goes on behind its end, as if several tar files were joined; keep them apart")


def _label(path: str, file, key: str, sample: _Sample) -> str:
    """The text of the class of an example; empty: it has none."""
    for kind in (CLASS, METADATA):
        if kind not in sample.parts:
            continue
        offset, size = sample.parts[kind]
        if size > MOST_BYTES[kind]:
            raise UserError(f"{path}: {key}.{kind} has {size:,} bytes; expected at most {MOST_BYTES[kind]:,}")
        file.seek(offset)
        text = file.read(size).decode("utf-8", "replace").strip()
        if kind == METADATA:
            text = _label_in_json(path, key, text)
        if kind == CLASS and (not text or not text.isprintable()):
            raise UserError(f"{path}: {key}.{kind} holds {text[:40]!r}; expected the number or the name of a class")
        if text:
            return text
    return ""


def _label_in_json(path: str, key: str, text: str) -> str:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {key}.{METADATA} is no JSON ({error}); write it again") from error
    label = found.get(LABEL) if isinstance(found, dict) else None
    if label is None:
        return ""
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise UserError(
            f"{path}: {key}.{METADATA} has the {LABEL} {label!r:.40}; expected the number or name of a class"
        )
    return str(label).strip()
