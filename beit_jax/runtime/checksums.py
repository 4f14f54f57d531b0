"""Checksums of finished checkpoints, in `checksums/STEP.json` beside them: a changed byte is read without an error."""

import json
import os
import zlib
from pathlib import Path

FOLDER = "checksums"
CHUNK = 1 << 22


def seal(checkpoint: Path) -> None:
    """Writes down size and CRC of every file of a checkpoint, and forgets checkpoints that are gone."""
    folder = _sums(checkpoint).parent
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        if not (checkpoint.parent / old.stem).exists():
            old.unlink(missing_ok=True)
    try:
        found = _measure(checkpoint)
    except FileNotFoundError:
        return  # removed meanwhile, by the rule of what is kept
    temporary = _sums(checkpoint).with_suffix(".tmp")
    temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
    os.replace(temporary, _sums(checkpoint))


def unseal(checkpoint: Path) -> None:
    """Forgets the checksums of a checkpoint that is to be written, or was set aside."""
    _sums(checkpoint).unlink(missing_ok=True)


def sealed(checkpoint: Path) -> bool:
    """Whether there are checksums of a checkpoint."""
    return _sums(checkpoint).exists()


def damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint's files; empty: nothing."""
    try:
        expected = dict(json.loads(_sums(checkpoint).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _unreadable(checkpoint)  # killed before they were written
    try:
        found = _measure(checkpoint)
    except OSError as error:
        return str(error)
    wrong = [name for name in expected if found.get(name) != expected[name]]
    if not wrong:
        return ""
    return f"{wrong[0]} {'has changed' if wrong[0] in found else 'is gone'}"


def _unreadable(checkpoint: Path) -> str:
    """What is wrong with a checkpoint without checksums: all of its arrays' bytes are read once."""
    import tensorstore

    for manifest in sorted(checkpoint.glob("*/manifest.ocdbt")):
        spec = {"driver": "ocdbt", "base": f"file://{manifest.parent.absolute()}/"}
        try:
            store = tensorstore.KvStore.open(spec).result()
            for key in store.list().result():
                store.read(key).result()
        except ValueError as error:
            return f"{manifest.parent.name}: {str(error).splitlines()[0]}"
    return ""


def _sums(checkpoint: Path) -> Path:
    return checkpoint.parents[1] / FOLDER / f"{checkpoint.name}.json"


def _measure(checkpoint: Path) -> dict[str, list[int]]:
    """`{"params/d/...": [bytes, crc32]}` of the files in the folders of a checkpoint."""
    files = sorted(file for file in checkpoint.glob("*/**/*") if file.is_file())
    return {file.relative_to(checkpoint).as_posix(): [file.stat().st_size, _crc(file)] for file in files}


def _crc(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
