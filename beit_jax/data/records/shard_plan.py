"""What a folder of images becomes as records: which files go into which shard, and in which order.

The order is that of `folder.list_folder`, a hash of the files' names, so that shards are mixed, slices of splits are
those of the folder, and neither depends on the machine. The plan is a small JSON file beside the shards; a folder that
has changed since is told by its fingerprint.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from beit_jax.data.sources import folder
from beit_jax.errors import UserError

FILE = "shard_plan.json"
PART = ".part-"  # in the names of files that are being written
READERS = 16  # threads that wait for a disk or a network
CHUNK = 1024  # files whose sizes a thread asks for at a time


class Split(NamedTuple):
    """Examples of a split in their order: paths of an image (and its label map), bytes in all, labels."""

    files: list[tuple[str, ...]]
    sizes: list[int]
    labels: list[int]
    fingerprint: str


class Images(NamedTuple):
    """The splits of a folder, and the names of the classes (none without class folders)."""

    root: str
    splits: dict[str, Split]
    classes: list[str]
    has_label_maps: bool


def read(root: str) -> Images:
    """The images of a folder in any layout that `data.source=folder:PATH` reads.

    Raises:
      UserError: nothing to read, a file that cannot be read, splits with different classes.
    """
    root = str(Path(root))
    splits, classes, paired = {}, {}, folder.is_paired(root)
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        for name in folder.list_splits(root):
            if paired:
                files, labels, classes[name] = folder.list_pairs(root, name), [], []
            else:
                listing = folder.list_folder(root, name)
                files, labels, classes[name] = [(path,) for path in listing.paths], listing.labels, listing.classes
            splits[name] = _split(root, files, labels, pool)
    first = next(iter(classes))
    for name, found in classes.items():
        if found != classes[first]:
            raise UserError(
                f"the class folders of {first} and {name} in {root} differ, and no train folder tells which there are; "
                "make them alike"
            )
    for name in classes[first]:
        if not name.isprintable():
            raise UserError(f"found the class folder {name!r} in {root}, expected a printable name; rename it")
    return Images(root, splits, classes[first], paired)


def _split(root: str, files: list[tuple[str, ...]], labels: list[int], pool: concurrent.futures.Executor) -> Split:
    chunks = (files[start : start + CHUNK] for start in range(0, len(files), CHUNK))
    sizes = [found for chunk in pool.map(_sizes, chunks) for found in chunk]
    seen = hashlib.blake2b(digest_size=16)
    for place, (paths, found) in enumerate(zip(files, sizes, strict=True)):
        names = [os.fsencode(folder.relative(path, root)) for path in paths]
        seen.update(repr((names, found, labels[place] if labels else None)).encode())
    return Split(files, [sum(found) for found in sizes], labels, seen.hexdigest())


def _sizes(files: list[tuple[str, ...]]) -> list[tuple[int, ...]]:
    return [tuple(map(_size, paths)) for paths in files]


def _size(path: str) -> int:
    try:
        found = os.stat(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"found {path}, which is no file; expected an image: remove or rename it")
    return found.st_size


def unreadable(path: str, error: OSError) -> UserError:
    """The error for a file of the folder that the system does not give."""
    return UserError(
        f"cannot read {path}: {error.strerror or error}; repair or remove it, and run the same command again"
    )


def plan(images: Images, shards: Callable[[Split], int]) -> dict[str, Any]:
    """What is written into `FILE`: enough to tell whether a later run would write the same."""
    splits = {
        name: dict(images=len(split.files), bytes=sum(split.sizes), shards=shards(split), fingerprint=split.fingerprint)
        for name, split in images.splits.items()
    }
    return dict(classes=images.classes, label_maps=images.has_label_maps, splits=splits)


def claim(place: Path, wanted: dict[str, Any]) -> None:
    """Makes the folder of the shards with the plan in it, at once, or finds the same plan there.

    Raises:
      UserError: there is another plan, or something else; or the folder cannot be written.
    """
    try:
        if not place.is_dir() or not any(place.iterdir()):
            _make(place, wanted)
    except OSError as error:
        raise UserError(f"cannot write {place}: {error.strerror or error}; choose another --out") from error
    _compare(place, wanted)


def _make(place: Path, wanted: dict[str, Any]) -> None:
    new = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        new.mkdir(parents=True)
        with whole(new / FILE) as part:
            part.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        os.rename(new, place)  # of several workers, one succeeds: a folder with something in it is not replaced
    except OSError:
        if not (place / FILE).exists():
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _compare(place: Path, wanted: dict[str, Any]) -> None:
    try:
        there = json.loads((place / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{place} holds something else than shards of this command; choose another --out") from error
    if there == wanted:
        return
    anew = f"delete {place} to begin anew, or choose another --name"
    if there.get("splits", {}).keys() == wanted["splits"].keys():
        for name, now in wanted["splits"].items():
            before = there["splits"][name]
            if before["fingerprint"] != now["fingerprint"]:
                raise UserError(
                    f"{place} was begun for other images: '{name}' had {before['images']} with {before['bytes']} "
                    f"bytes, and has {now['images']} with {now['bytes']} now (names or sizes changed); put back what "
                    f"was there, {anew}"
                )
            if before["shards"] != now["shards"]:
                raise UserError(
                    f"{place} was begun with {before['shards']} shards of '{name}', found {now['shards']} now; "
                    f"give --shards as before, {anew}"
                )
    raise UserError(f"{place} was begun for other splits or classes; put back what was there, {anew}")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """For a file that appears whole or not at all, also when the power fails: yields the name to write it under.

    Each writer has a name of its own, so that two of them do not spoil each other's file.
    """
    part = path.with_name(f"{path.name}{PART}{secrets.token_hex(4)}")
    try:
        yield part
        _sync(part)
        os.replace(part, path)
        with contextlib.suppress(OSError):  # some file systems do not know it for folders
            _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until a file, or what a folder says of its files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
