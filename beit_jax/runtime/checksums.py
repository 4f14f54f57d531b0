"""Checksums of complete checkpoints, in `checksums/STEP.json`: a library reads changed bytes without error."""

import json
import zlib
from pathlib import Path

from beit_jax.runtime.atomic_write import write_text

FOLDER = "checksums"
CHUNK = 1 << 22


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


def find_damage(checkpoint: Path, item: str = "*") -> str:
    """What is wrong with the files of a checkpoint, or of one of its items; empty where nothing is."""
    try:
        expected = dict(json.loads(_checksum_file(checkpoint).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        # The run was killed before they were written, or the checkpoint was copied without its run.
        return _read_all_arrays(checkpoint, item)
    expected = {name: value for name, value in expected.items() if item in ("*", name.partition("/")[0])}
    try:
        sums = _measure(checkpoint, item)
    except OSError as error:
        return str(error)
    wrong = [name for name in expected if sums.get(name) != expected[name]]
    if not wrong:
        return ""
    return f"{wrong[0]} {'has changed' if wrong[0] in sums else 'is gone'}"


def _read_all_arrays(checkpoint: Path, item: str) -> str:
    """What is wrong with a checkpoint without checksums: reads all bytes of its arrays once."""
    import tensorstore

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
    files = sorted(file for file in checkpoint.glob(f"{item}/**/*") if file.is_file())
    return {file.relative_to(checkpoint).as_posix(): [file.stat().st_size, _crc(file)] for file in files}


def _crc(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
