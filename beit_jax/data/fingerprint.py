"""What the files of a split are, by which a run can tell whether it reads the same data as before."""

import collections
import concurrent.futures
import hashlib
import itertools
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from beit_jax.data.sources import data_sets, folder, layout
from beit_jax.data.sources.examples import Examples
from beit_jax.data.sources.names import relative_name
from beit_jax.data.sources.open_source import open_split
from beit_jax.data.sources.shard_files import file_sizes
from beit_jax.data.sources.tree import file_size, stored_checksums

THREADS, CHUNK = 16, 256  # threads that wait for a disk or a network, and files that each of them takes at a time
MANY = 200_000  # files of a folder above which names alone count: a network would take minutes to tell more
NAMED = 5  # classes in a message


def fingerprint(config: Any) -> str:
    """A hash of the names and sizes of the files of `config.split` of `config.source`, in file order.

    Of a data set with a prefix (`data_sets`), it is of what tells its contents, such as checksums. No image of a file
    is read, and the folder in which the files lie does not count.

    Args:
      config: of the input, see `pipeline`.

    Raises:
      UserError: the split cannot be read.
    """
    if data_sets.has_prefix(config.source):
        return _hash_examples(data_sets.select(config.source, config.split))
    root = layout.path_of(config.source)
    return _hash(
        _with_sizes(folder.list_paths(root, config.split), root) if root else _list_records(config, config.split)
    )


def describe_split(config: Any, split: str) -> dict[str, Any]:
    """Number of images, how many of each class (null: not known without reading), and hashes, as JSON has them.

    `hash` is of names and sizes of the files, and of the label maps where there are such. Of files in a bucket,
    `contents` is of the checksums of the store.

    Args:
      config: of the input, see `pipeline`.
      split: with or without a slice.

    Raises:
      UserError: the split cannot be read.
    """
    if data_sets.has_prefix(config.source):
        examples = data_sets.select(config.source, split)
        return {
            "images": len(examples.positions),
            "classes": _count_classes(examples),
            "hash": _hash_examples(examples),
        }
    root = layout.path_of(config.source)
    if not root:
        builder, found = open_split(config.source, config.data_dir, split)
        features = builder.info.features
        names = getattr(features["label"], "names", ()) if "label" in features else ()
        return {
            "images": found.num_examples,
            "classes": dict.fromkeys(names),
            "hash": _hash(_list_records(config, split)),
            **_contents([os.fspath(file.filename) for file in found.file_instructions]),
        }
    classes: dict[str, int | None] = {}
    if layout.is_paired(root):
        pairs = folder.list_pairs(root, split)
        paths, images = list(itertools.chain(*pairs)), len(pairs)
    else:
        listing = folder.list_folder(root, split)
        paths, images, counts = listing.paths, len(listing.paths), collections.Counter(listing.labels)
        classes = {name: counts[number] for number, name in enumerate(listing.classes)}
    named = (_name(path, root) for path in paths) if len(paths) > MANY else _with_sizes(paths, root)
    return {"images": images, "classes": classes, "hash": _hash(named), **_contents(paths)}


def _contents(paths: Sequence[str]) -> dict[str, str]:
    """A hash of the checksums of files in a bucket."""
    checksums = stored_checksums(paths)
    return {} if checksums is None else {"contents": _hash(checksums)}


def _hash_examples(examples: Examples) -> str:
    return _hash([examples.digest(), examples.positions.tobytes()])


def _count_classes(examples: Examples) -> dict[str, int]:
    """Number of examples of each class, by its name, or by its number where classes have no names."""
    if examples.labels is None:
        return {}
    labels = examples.chosen_labels
    counts = np.bincount(labels[labels >= 0], minlength=examples.num_classes).tolist()
    return dict(zip(examples.class_names or map(str, range(examples.num_classes)), counts, strict=True))


def describe_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two results of `describe_split`, in words; empty: nothing."""
    same = {key for key in before.keys() & now.keys() if before[key] == now[key]}
    if same >= before.keys() & now.keys():  # `contents` is not known of a disk
        return ""
    old, new = before["classes"], now["classes"]
    parts = [f"{before['images']} images then and {now['images']} now"] if before["images"] != now["images"] else []
    for word, names in (("new", new.keys() - old.keys()), ("missing", old.keys() - new.keys())):
        if names:
            parts.append(f"{'classes' if len(names) > 1 else 'class'} {_listed(sorted(names))} {word}")
    counts = [
        f"{name!r} {old[name]} then and {new[name]} now" for name in old if name in new and old[name] != new[name]
    ]
    parts += [*counts[:NAMED], *(["..."] if len(counts) > NAMED else [])]
    if not parts and list(old) != list(new):
        parts = ["the classes are in another order"]
    if not parts and "hash" in same:
        parts = ["files of the same names and sizes, but with other contents"]
    return ", ".join(parts) or "as many images, but files of other names or sizes"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:NAMED])) + (f", ... ({len(names)})" if len(names) > NAMED else "")


def _hash(files: Iterable[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(repr(file).encode())
    return digest.hexdigest()


def _with_sizes(paths: Sequence[str], root: str) -> list[tuple[bytes, int]]:
    """Names relative to the folder, and sizes in bytes."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        sizes = itertools.chain.from_iterable(pool.map(lambda chunk: list(map(_size, chunk)), chunks))
        return [(_name(path, root), size) for path, size in zip(paths, sizes, strict=True)]


def _name(path: str, root: str) -> bytes:
    """The name of a file relative to the folder; copies may have other Unicode forms."""
    return os.fsencode(unicodedata.normalize("NFC", relative_name(path, root)))


def _size(path: str) -> int:
    try:
        return file_size(path)
    except OSError:
        return -1  # training replaces what it cannot read


def _list_records(config: Any, split: str) -> list[tuple[str, int, int, int]]:
    files = open_split(config.source, config.data_dir, split)[1].file_instructions
    sizes = file_sizes(tuple(os.fspath(file.filename) for file in files))
    return [
        (os.path.basename(file.filename), size, file.skip, file.take) for file, size in zip(files, sizes, strict=True)
    ]
