"""The plan for storing a folder of images as records: which files go into which shard, and in which order.

The order is that of `list_folder`, a hash of the files' names: shards are mixed, slices of splits are those of
the folder, and neither depends on the machine. The plan is a small JSON file beside the shards. Its fingerprints tell
whether the folder has changed since.
"""

import concurrent.futures
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from beit_jax.data.sources import layout
from beit_jax.data.sources.folder import list_folder, list_pairs
from beit_jax.data.sources.names import relative_name
from beit_jax.data.sources.tree import file_size, path_at
from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import atomic_write
from beit_jax.runtime.bucket import blob, call
from beit_jax.runtime.urls import is_bucket

FILE = "shard_plan.json"
THREADS = 16  # that wait for a disk or a network
CHUNK = 1024  # files whose sizes one thread asks for at a time


class Split(NamedTuple):
    """Examples of a split in their order: paths of an image (and its label map), bytes of both together, labels."""

    files: list[tuple[str, ...]]
    sizes: list[int]
    labels: list[int]
    fingerprint: str


class ImageFolder(NamedTuple):
    """The splits of a folder, and the names of the classes (empty without class folders)."""

    root: str
    splits: dict[str, Split]
    classes: list[str]
    has_label_maps: bool


def list_images(root: str) -> ImageFolder:
    """The images of a folder in any layout that `data.source=folder:PATH` reads.

    Raises:
      UserError: there are no images, a file cannot be read, splits have different classes, or a class has a name that
        tfds would change.
    """
    root = str(path_at(root))
    splits, classes, paired = {}, {}, layout.is_paired(root)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for name in layout.list_splits(root):
            if paired:
                files, labels, classes[name] = list_pairs(root, name), [], []
            else:
                listing = list_folder(root, name)
                files, labels, classes[name] = [(path,) for path in listing.paths], listing.labels, listing.classes
            splits[name] = _describe_split(root, files, labels, pool)
    first = next(iter(classes))
    for name, classes_of_split in classes.items():
        if classes_of_split != classes[first]:
            raise UserError(
                f"the class folders of {first} and {name} in {root} differ, and there is no train folder that decides; "
                "give both the same class folders"
            )
    for name in classes[first]:
        if name != name.strip() or not name.isprintable():
            raise UserError(
                f"found the class folder {name!r} in {root}, expected a printable name without blanks around it: tfds "
                "would change it; rename it"
            )
    return ImageFolder(root, splits, classes[first], paired)


def _describe_split(
    root: str, files: list[tuple[str, ...]], labels: list[int], pool: concurrent.futures.Executor
) -> Split:
    chunks = (files[start : start + CHUNK] for start in range(0, len(files), CHUNK))
    sizes = [size for chunk in pool.map(_sizes, chunks) for size in chunk]
    digest = hashlib.blake2b(digest_size=16)
    for index, (paths, sizes_of_paths) in enumerate(zip(files, sizes, strict=True)):
        names = [os.fsencode(relative_name(path, root)) for path in paths]
        digest.update(repr((names, sizes_of_paths, labels[index] if labels else None)).encode())
    return Split(files, [sum(sizes_of_paths) for sizes_of_paths in sizes], labels, digest.hexdigest())


def _sizes(files: list[tuple[str, ...]]) -> list[tuple[int, ...]]:
    return [tuple(map(_size, paths)) for paths in files]


def _size(path: str) -> int:
    try:
        if is_bucket(path):
            return file_size(path)
        status = os.stat(path)
    except OSError as error:
        raise unreadable_file(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"found {path}, which is not a file; expected an image: remove or rename it")
    return status.st_size


def unreadable_file(path: str, error: OSError) -> UserError:
    """The error for a file that the operating system cannot read."""
    return UserError(
        f"cannot read {path}: {error.strerror or error}; repair or remove it, and run the same command again"
    )


def make_plan(images: ImageFolder, count_shards: Callable[[Split], int]) -> dict[str, Any]:
    """The contents of `FILE`: enough to tell whether a later run would write the same shards."""
    splits = {
        name: dict(
            images=len(split.files), bytes=sum(split.sizes), shards=count_shards(split), fingerprint=split.fingerprint
        )
        for name, split in images.splits.items()
    }
    return dict(classes=images.classes, label_maps=images.has_label_maps, splits=splits)


def claim_folder(out: Path, plan: dict[str, Any]) -> None:
    """Makes the folder of the shards together with the plan in it, unless it is there with the same plan.

    Raises:
      UserError: the folder has another plan, or something else in it, or cannot be written.
    """
    try:
        if not out.is_dir() or not any(out.iterdir()):
            _make_folder(out, plan)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; choose another --out") from error
    _compare_plans(out, plan)


def _make_folder(out: Path, plan: dict[str, Any]) -> None:
    text = json.dumps(plan, indent=1) + "\n"
    try:
        if is_bucket(out):  # of several workers, one succeeds: that object must not be there
            call(out, blob(out / FILE).upload_from_string, text, if_generation_match=0)
            return
        with atomic_write(out) as new:  # of several workers, one succeeds: only an empty folder is replaced
            new.mkdir()
            (new / FILE).write_text(text, encoding="utf-8")
    except OSError:
        if not (out / FILE).exists():
            raise


def _compare_plans(out: Path, plan: dict[str, Any]) -> None:
    try:
        old_plan = json.loads((out / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{out} has other files than shards of this command; choose another --out") from error
    if old_plan == plan:
        return
    advice = f"delete {out} to start again, or choose another --name"
    if old_plan.get("splits", {}).keys() == plan["splits"].keys():
        for name, new in plan["splits"].items():
            old = old_plan["splits"][name]
            if old["fingerprint"] != new["fingerprint"]:
                raise UserError(
                    f"{out} was started for other images: '{name}' had {old['images']} with {old['bytes']} bytes, and "
                    f"has {new['images']} with {new['bytes']} now, or other names; restore the images, {advice}"
                )
            if old["shards"] != new["shards"]:
                raise UserError(
                    f"{out} was started with {old['shards']} shards of '{name}', found {new['shards']} now; give "
                    f"--shards as before, {advice}"
                )
    raise UserError(f"{out} was started for other splits or classes; restore them, {advice}")
