"""Checksums of complete checkpoints, in `checksums/STEP.json`: a library reads changed bytes without error."""

import errno
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from beit_jax.runtime.atomic_write import write_text

FOLDER = "checksums"
CHUNK = 1 << 22
REFUSALS = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)


def write_checksums(checkpoint: Path) -> None:
    """Writes size and CRC of every file of a checkpoint, and removes the checksums of checkpoints that are gone."""
    file = _checksum_file(checkpoint)
    for old in file.parent.glob("*.json"):
        if not (checkpoint.parent / old.stem).exists():
            old.unlink(missing_ok=True)
    try:
        sums = _measure(checkpoint)
    except FileNotFoundError:
        return  # removed meanwhile, because there are newer checkpoints
    write_text(file, json.dumps(sums, indent=1))


def remove_checksums(checkpoint: Path) -> None:
    """Removes the checksums of a checkpoint that will be written again, or was set aside."""
    _checksum_file(checkpoint).unlink(missing_ok=True)


def has_checksums(checkpoint: Path) -> bool:
    """Whether there are checksums of a checkpoint."""
    return _checksum_file(checkpoint).exists()


def is_refusal(error: Exception) -> bool:
    """Whether the system, or a library in its words, refuses to open a file: that says nothing about what is in it."""
    return any(os.strerror(number) in str(error) for number in REFUSALS)


def find_damage(checkpoint: Path, item: str = "*") -> str:
    """What is wrong with the files of a checkpoint, or of one of its items; empty where nothing is.

    Raises:
      OSError: the system refuses to open one of them.
    """
    try:
        expected = dict(json.loads(_checksum_file(checkpoint).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        if is_refusal(error):
            raise
        # The run was killed before they were written, or the checkpoint was copied without its run.
        return _read_all_arrays(checkpoint, item)
    expected = {name: value for name, value in expected.items() if item in ("*", name.partition("/")[0])}
    try:
        sums = _measure(checkpoint, item)
    except OSError as error:
        if is_refusal(error):
            raise
        return str(error)
    wrong = [name for name in expected if sums.get(name) != expected[name]]
    if not wrong:
        return ""
    return f"{wrong[0]} {'has changed' if wrong[0] in sums else 'is gone'}"


def _read_all_arrays(checkpoint: Path, item: str) -> str:
    """What is wrong with a checkpoint without checksums: reads all bytes of its arrays once."""
    import tensorstore

    for name in _files(checkpoint):
        (checkpoint / name).open("rb").close()  # raises where the system refuses
    for manifest in sorted(checkpoint.glob(f"{item}/manifest.ocdbt")):
        spec = {"driver": "ocdbt", "base": f"file://{manifest.parent.absolute()}/"}
        try:
            store = tensorstore.KvStore.open(spec).result()
            for key in store.list().result():
                store.read(key).result()
        except ValueError as error:
            return f"{manifest.parent.name}: {str(error).splitlines()[0]}"
    return ""


def _checksum_file(checkpoint: Path) -> Path:
    return checkpoint.parents[1] / FOLDER / f"{checkpoint.name}.json"


def _measure(checkpoint: Path, item: str = "*") -> dict[str, list[int]]:
    """`{"params/d/...": [bytes, crc32]}` of the files in the folders of a checkpoint."""
    names = sorted(name for name in _files(checkpoint) if "/" in name and item in ("*", name.partition("/")[0]))
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
