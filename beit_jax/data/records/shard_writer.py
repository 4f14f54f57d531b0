"""Writes a folder of images as a data set of tensorflow-datasets: TFRecord shards and their metadata.

Features, serialization, shard names and metadata are those of tfds. The bytes of image files are stored as they are. A
shard gets its final name when it is complete and on the disk, so that a run that was interrupted continues with the
missing shards. Several workers write different shards of the same plan. The metadata, without which tfds finds no data
set, are written last.
"""

import concurrent.futures
import contextlib
import json
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_datasets as tfds

from beit_jax.data.records import shard_plan
from beit_jax.data.records.shard_plan import ImageFolder, Split
from beit_jax.data.sources import image_label_pairs
from beit_jax.data.sources.names import relative_name
from beit_jax.data.sources.shard_files import RECORD_OVERHEAD, SIZES
from beit_jax.data.sources.source import FILE_NAME
from beit_jax.data.sources.tree import path_at
from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import PART, atomic_write
from beit_jax.runtime.progress import progress_bar
from beit_jax.runtime.urls import is_bucket

VERSION = "1.0.0"
BYTES_AHEAD = 64 * 2**20  # of files read before they are written
FILES_AHEAD = 256
BUILT_IN = ("digits", "digit_scenes")


class ShardFile(NamedTuple):
    """A file of the data set, and which examples of its split it holds."""

    path: Path
    split: str
    start: int
    stop: int


class WriteResult(NamedTuple):
    """The folder of the data set, its number of images by split, and how many of its shards are still missing."""

    folder: Path
    images: dict[str, int]
    shards: int
    missing: int


def check_name(name: str) -> None:
    """Raises UserError for a name that a data set cannot have, or that a data set of tfds has."""
    if not name.isidentifier() or not name.isascii() or name != name.lower():
        raise UserError(
            f"found the name {name!r}, expected lower-case letters, digits and _; give another name with --name"
        )
    if name in BUILT_IN or name in tfds.list_builders(with_community_datasets=False):
        raise UserError(f"{name} is the name of another data set, which would be read instead; give --name")


def missing_shards(shards: Sequence[ShardFile]) -> list[ShardFile]:
    """Those of the files of a data set that are not there."""
    if not shards or not is_bucket(shards[0].path):
        return [shard for shard in shards if not shard.path.exists()]
    there = shards[0].path.parent.objects()
    return [shard for shard in shards if shard.path.name not in there]


def write_shards(images: ImageFolder, shards: list[ShardFile]) -> None:
    """Writes those shards that are missing, one after the other, while threads read ahead.

    Raises:
      UserError: a file cannot be read or written.
    """
    missing = missing_shards(shards)
    total, remaining = (sum(shard.stop - shard.start for shard in some) for some in (shards, missing))
    with _reading() as pool, progress_bar(total, total - remaining) as progress:
        for shard in missing:
            _write(images, shard, pool, progress.update)


def write_shard(images: ImageFolder, shard: ShardFile) -> None:
    """Writes one shard, unless it is there.

    Raises:
      UserError: a file cannot be read or written.
    """
    if not shard.path.exists():
        with _reading() as pool:
            _write(images, shard, pool, lambda: None)


def write_dataset(
    images: str,
    out: Path,
    name: str,
    shards: int,
    worker: int,
    workers: int,
    write: Callable[[ImageFolder, list[ShardFile]], None] = write_shards,
) -> WriteResult:
    """Writes the missing shards of one worker and then, if no shard is missing, the metadata.

    Args:
      images: the folder, in any layout that `data.source=folder:PATH` reads.
      out: the later `data_dir`.
      name: of the data set.
      shards: files of each split, at most one for each image; 0: as many as tfds would make (64 MiB to 1 GiB each).
      worker: the index of this worker.
      workers: how many workers write at the same time; each writes every n-th shard.
      write: writes those of some shards that are missing.

    Raises:
      UserError: a folder is wrong, a file cannot be read, or the disk is full. Finished shards stay.
    """
    check_name(name)
    image_folder = shard_plan.list_images(images)
    folder = out / name / VERSION
    plan = shard_plan.make_plan(image_folder, lambda split: _number_of_shards(split, shards))
    shard_plan.claim_folder(folder, plan)
    files = {
        split: _shard_files(folder, name, split, numbers["images"], numbers["shards"])
        for split, numbers in plan["splits"].items()
    }
    all_shards = [shard for shards in files.values() for shard in shards]
    worker_shards = all_shards[worker::workers]
    if not is_bucket(folder):  # objects appear complete or not at all
        _remove_parts(folder, None if workers == 1 else {shard.path.name for shard in worker_shards})
    write(image_folder, worker_shards)
    missing = len(missing_shards(all_shards))
    if not missing:
        _write_metadata(folder, name, image_folder, files)
    sizes = {split: numbers["images"] for split, numbers in plan["splits"].items()}
    return WriteResult(folder, sizes, len(all_shards), missing)


def _number_of_shards(split: Split, requested: int) -> int:
    rule = tfds.core.utils.shard_utils.ShardConfig(num_shards=requested or None)
    return min(rule.get_number_shards(sum(split.sizes), len(split.files)), len(split.files))


def _shard_files(folder: Path, name: str, split: str, images: int, shards: int) -> list[ShardFile]:
    paths = _template(folder, name, split).sharded_filepaths(shards)
    bounds = [0, *tfds.core.utils.shard_utils.get_shard_boundaries(images, shards)]
    return [ShardFile(folder / path.name, split, *part) for path, *part in zip(paths, bounds, bounds[1:])]


def _template(folder: Path, name: str, split: str) -> tfds.core.ShardedFileTemplate:
    return tfds.core.ShardedFileTemplate(data_dir=folder, dataset_name=name, split=split, filetype_suffix="tfrecord")


def _features(images: ImageFolder) -> tfds.features.FeaturesDict:
    features = {"image": tfds.features.Image(), FILE_NAME: tfds.features.Text()}
    if images.has_label_maps:
        features[image_label_pairs.FEATURE] = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    elif images.classes:
        features["label"] = tfds.features.ClassLabel(names=images.classes)
    return tfds.features.FeaturesDict(features)


@contextlib.contextmanager
def _reading() -> Iterator[concurrent.futures.Executor]:
    pool = concurrent.futures.ThreadPoolExecutor(shard_plan.THREADS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _remove_parts(folder: Path, names: set[str] | None) -> None:
    """Removes what killed runs have left of the files of these names; None: of all files."""
    for path in folder.glob(f"*{PART}*"):
        if names is None or path.name.partition(PART)[0] in names:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _write(
    images: ImageFolder, shard: ShardFile, pool: concurrent.futures.Executor, progress: Callable[[], Any]
) -> None:
    try:
        with atomic_write(shard.path) as part, tf.io.TFRecordWriter(str(part)) as writer:
            for record in _records(images, shard, pool):
                writer.write(record)
                progress()
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} is gone: another process writes the same shards; start each worker only once, and "
            "run the same command again when none is running"
        ) from error
    except (OSError, tf.errors.OpError) as error:
        reason = error.message if isinstance(error, tf.errors.OpError) else error.strerror or str(error)
        raise UserError(
            f"cannot write {shard.path}: {reason.splitlines()[0]}; finished shards stay: free some space or check the "
            "disk, and run the same command again, once for each worker"
        ) from error


def _records(images: ImageFolder, shard: ShardFile, pool: concurrent.futures.Executor) -> Iterator[bytes]:
    features, split = _features(images), images.splits[shard.split]
    serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
    for index, contents in enumerate(_read_ahead(split, shard, pool), shard.start):
        name = relative_name(split.files[index][0], images.root)
        example = {"image": contents[0], FILE_NAME: name.encode("utf-8", "surrogateescape")}
        if images.has_label_maps:
            example[image_label_pairs.FEATURE] = contents[1]
        elif images.classes:
            example["label"] = split.labels[index]
        # deterministic: the order of the features would change from run to run otherwise.
        yield serializer.get_tf_example(features.encode_example(example)).SerializeToString(deterministic=True)


def _read_ahead(split: Split, shard: ShardFile, pool: concurrent.futures.Executor) -> Iterator[tuple[bytes, ...]]:
    """The contents of the files of each example of a shard. Threads read ahead, within bounds of memory."""
    pending, bytes_pending, next_index = deque(), 0, shard.start
    for index in range(shard.start, shard.stop):
        while next_index < shard.stop and (
            next_index == index
            or (len(pending) < FILES_AHEAD and bytes_pending + split.sizes[next_index] <= BYTES_AHEAD)
        ):
            pending.append(pool.submit(_read_files, split.files[next_index], split.sizes[next_index]))
            bytes_pending += split.sizes[next_index]
            next_index += 1
        yield pending.popleft().result()
        bytes_pending -= split.sizes[index]


def _read_files(paths: tuple[str, ...], size: int) -> tuple[bytes, ...]:
    contents = []
    for path in paths:
        try:
            contents.append(path_at(path).read_bytes())
        except OSError as error:
            raise shard_plan.unreadable_file(path, error) from error
    if sum(map(len, contents)) != size:
        raise UserError(
            f"{paths[0]} has changed since the command was started; leave the images unchanged, and run it again"
        )
    return tuple(contents)


def _sizes(folder: Path, shards: Sequence[ShardFile]) -> list[int]:
    """Bytes of each file."""
    if not is_bucket(folder):
        return [shard.path.stat().st_size for shard in shards]
    there = folder.objects()
    return [there[shard.path.name]["size"] for shard in shards]


def _write_metadata(folder: Path, name: str, images: ImageFolder, files: dict[str, list[ShardFile]]) -> None:
    """Writes what makes the shards a data set. Several workers may do so at once: they replace files by equal ones."""
    identity = tfds.core.DatasetIdentity(name, tfds.core.Version(VERSION), str(folder), module_name="")
    description = "The images of a folder, unchanged, in the order of a hash of their names (beit_jax.shard_dataset)."
    info = tfds.core.DatasetInfo(builder=identity, description=description, features=_features(images))
    info.set_file_format(tfds.core.FileFormat.TFRECORD)
    splits, sizes = [], {}
    for split, shards in files.items():
        lengths = [shard.stop - shard.start for shard in shards]
        of_split = _sizes(folder, shards)
        size = sum(of_split) - RECORD_OVERHEAD * sum(lengths)
        splits.append(tfds.core.SplitInfo(split, lengths, size, _template(folder, name, split)))
        for shard, stored, length in zip(shards, of_split, lengths, strict=True):
            sizes[shard.path.name] = {"bytes": stored, "records": length}
    info.set_splits(tfds.core.SplitDict(splits))
    try:
        # Beside the shards: a disk that TMPDIR names may be full, or missing.
        beside = None if is_bucket(folder) else folder
        with tempfile.TemporaryDirectory(prefix=f"metadata{PART}", dir=beside) as new:
            info.write_to_directory(new)
            (Path(new) / SIZES).write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
            # features.json last: tfds takes a folder with that file for a data set.
            for file in sorted(Path(new).iterdir(), key=lambda path: path.name == "features.json"):
                with atomic_write(folder / file.name) as part:
                    part.write_bytes(file.read_bytes())
        # Those of killed workers, whose shards other workers wrote.
        if not is_bucket(folder):
            _remove_parts(folder, {shard.path.name for shards in files.values() for shard in shards})
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; free some space, and run the same command again"
        ) from error
