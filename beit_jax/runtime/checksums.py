"""Checksums of complete checkpoints, in `STEP/checksums.json`: a library reads changed bytes without error.

A bucket has computed the checksum of each object (CRC32C) itself, and tells it with the list of objects.
"""

import errno
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from beit_jax.runtime.atomic_write import write_text
from beit_jax.runtime.bucket_retries import BucketError
from beit_jax.runtime.checkpoint_folder import CHECKSUMS
from beit_jax.runtime.urls import is_bucket

FILE = CHECKSUMS  # in the folder of the checkpoint, so that it is copied and deleted with it
CHUNK = 1 << 22
AT_ONCE = 8  # parts of arrays that are read at the same time: a bucket takes its time for each
# Words of tensorstore for a store that does not answer, or refuses to.
NO_ANSWERS = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "PERMISSION_DENIED")
REFUSALS = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)


def write_checksums(checkpoint: Path) -> None:
    """Writes size and CRC of every file of a checkpoint; Orbax must not delete the checkpoint meanwhile."""
    if sums := _measure(checkpoint):  # nobody has removed it meanwhile
        write_text(checkpoint / FILE, json.dumps(sums, indent=1))


def has_checksums(checkpoint: Path) -> bool:
    """Whether there are checksums of a checkpoint."""
    return (checkpoint / FILE).exists()


def is_refusal(error: Exception) -> bool:
    """Whether the system or a store, or a library in its words, does not give a file: that says nothing about it."""
    words = (*map(os.strerror, REFUSALS), *NO_ANSWERS)
    return any(word in str(error) for word in words)


def find_damage(checkpoint: Path, *items: str) -> str:
    """What is wrong with the files of a checkpoint, or of some of its items; empty where nothing is.

    Raises:
      OSError: the system refuses to open one of them.
    """
    items = items or ("*",)
    try:
        expected = dict(json.loads((checkpoint / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        if is_refusal(error):
            raise
        return _read_all_arrays(checkpoint, items)  # the run was killed before they were written
    expected = {name: value for name, value in expected.items() if {"*", name.partition("/")[0]} & {*items}}
    try:
        sums = _measure(checkpoint, items)
    except OSError as error:
        if is_refusal(error):
            raise
        return str(error)
    copied = any(type(sums[name][1]) is not type(expected[name][1]) for name in expected.keys() & sums.keys())
    if copied:  # from a bucket to a disk, or the reverse: the sums are of two kinds
        sums, expected = [{name: size for name, (size, _) in table.items()} for table in (sums, expected)]
    wrong = [name for name in expected if sums.get(name) != expected[name]]
    if not wrong:
        return _read_all_arrays(checkpoint, items) if copied else ""
    return f"{wrong[0]} {'has changed' if wrong[0] in sums else 'is gone'}"


def _read_all_arrays(checkpoint: Path, items: tuple[str, ...]) -> str:
    """What is wrong with a checkpoint without checksums: reads all bytes of its arrays once."""
    import tensorstore

    for name in () if is_bucket(checkpoint) else _files(checkpoint):
        (checkpoint / name).open("rb").close()  # raises where the system refuses
    for manifest in sorted(file for item in items for file in checkpoint.glob(f"{item}/manifest.ocdbt")):
        base = manifest.parent if is_bucket(manifest) else f"file://{manifest.parent.absolute()}"
        spec = {"driver": "ocdbt", "base": f"{base}/"}
        try:
            store = tensorstore.KvStore.open(spec).result()
            keys = store.list().result()
            for start in range(0, len(keys), AT_ONCE):
                for read in [store.read(key) for key in keys[start : start + AT_ONCE]]:
                    read.result()
        except ValueError as error:
            if is_refusal(error):
                raise BucketError(f"{manifest.parent}: {str(error).splitlines()[0]}") from error
            return f"{manifest.parent.name}: {str(error).splitlines()[0]}"
    return ""


def _measure(checkpoint: Path, items: tuple[str, ...] = ("*",)) -> dict[str, list[Any]]:
    """`{"params/d/...": [bytes, crc32]}` of the files in the folders of a checkpoint."""
    if is_bucket(checkpoint):
        found = {name: [facts["size"], facts["crc32c"]] for name, facts in checkpoint.objects().items()}
        return {name: found[name] for name in sorted(found) if "/" in name and {"*", name.partition("/")[0]} & {*items}}
    names = sorted(name for name in _files(checkpoint) if "/" in name and {"*", name.partition("/")[0]} & {*items})
    return {name: [(checkpoint / name).stat().st_size, _crc(checkpoint / name)] for name in names}


def _files(folder: Path) -> Iterator[str]:
    """The paths of all files below a folder, relative to it. Unlike glob, it raises where a folder cannot be listed."""

    def fail(error: OSError) -> NoReturn:
        raise error

    for parent, _, names in os.walk(folder, onerror=fail):
        for name in names:
            yield (Path(parent) / name).relative_to(folder).as_posix()


def _crc(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
