"""Checksums of complete checkpoints, in `STEP/checksums.json`: a library reads changed bytes without error."""

import json
import zlib
from pathlib import Path

from beit_jax.runtime.atomic_write import write_text

FILE = "checksums.json"  # in the folder of the checkpoint, so that it is copied and deleted with it
CHUNK = 1 << 22


def write_checksums(checkpoint: Path) -> None:
    """Writes size and CRC of every file of a checkpoint; Orbax must not delete the checkpoint meanwhile."""
    if sums := _measure(checkpoint):  # nobody has removed it meanwhile
        write_text(checkpoint / FILE, json.dumps(sums, indent=1))


def has_checksums(checkpoint: Path) -> bool:
    """Whether there are checksums of a checkpoint."""
    return (checkpoint / FILE).exists()


def find_damage(checkpoint: Path, *items: str) -> str:
    """What is wrong with the files of a checkpoint, or of some of its items; empty where nothing is."""
    items = items or ("*",)
    try:
        expected = dict(json.loads((checkpoint / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return _read_all_arrays(checkpoint, items)  # the run was killed before they were written
    expected = {name: value for name, value in expected.items() if {"*", name.partition("/")[0]} & {*items}}
    try:
        sums = _measure(checkpoint, items)
    except OSError as error:
        return str(error)
    wrong = [name for name in expected if sums.get(name) != expected[name]]
    if not wrong:
        return ""
    return f"{wrong[0]} {'has changed' if wrong[0] in sums else 'is gone'}"


def _read_all_arrays(checkpoint: Path, items: tuple[str, ...]) -> str:
    """What is wrong with a checkpoint without checksums: reads all bytes of its arrays once."""
    import tensorstore

    for manifest in sorted(file for item in items for file in checkpoint.glob(f"{item}/manifest.ocdbt")):
        spec = {"driver": "ocdbt", "base": f"file://{manifest.parent.absolute()}/"}
        try:
            store = tensorstore.KvStore.open(spec).result()
            for key in store.list().result():
                store.read(key).result()
        except ValueError as error:
            return f"{manifest.parent.name}: {str(error).splitlines()[0]}"
    return ""


def _measure(checkpoint: Path, items: tuple[str, ...] = ("*",)) -> dict[str, list[int]]:
    """`{"params/d/...": [bytes, crc32]}` of the files in the folders of a checkpoint."""
    files = sorted(file for item in items for file in checkpoint.glob(f"{item}/**/*") if file.is_file())
    return {file.relative_to(checkpoint).as_posix(): [file.stat().st_size, _crc(file)] for file in files}


def _crc(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
