"""Writes a folder of images as a data set of tensorflow-datasets: TFRecord shards, and what tfds reads them by.

Features, serialization, shard names and metadata are those of tfds, and the bytes of image files are stored as they
are. A shard has its final name only when it is whole and on the disk, so that a run that was stopped goes on with the
shards that are missing; several workers write different shards of the same plan. The metadata, which make it a data
set, come last.
"""

import concurrent.futures
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
import tensorflow_datasets as tfds
from tqdm import tqdm

from beit_jax.data.records import shard_plan
from beit_jax.data.records.shard_plan import PART, Images, Split
from beit_jax.data.sources import folder, image_label_pairs
from beit_jax.data.sources.source import FILE_NAME
from beit_jax.errors import UserError
from beit_jax.runtime.progress import progress_bar

VERSION = "1.0.0"
BYTES_AHEAD = 64 * 2**20  # of files read before they are written
FILES_AHEAD = 256
RECORD_OVERHEAD = 16  # bytes that a TFRecord file adds to each record: its length, and two checksums
OURS = ("digits", "digit_scenes")


class Shard(NamedTuple):
    """A file of the data set, and the part of its split that it holds."""

    path: Path
    split: str
    start: int
    stop: int


class Written(NamedTuple):
    """Where the data set is, its numbers of images by split, and how many of its shards are still missing."""

    place: Path
    images: dict[str, int]
    shards: int
    missing: int


def check_name(name: str) -> None:
    """Raises UserError for a name that cannot be one of a data set, or is one of tfds' own."""
    if not name.isidentifier() or not name.isascii() or name != name.lower():
        raise UserError(f"found the name {name!r}, expected small letters, digits and _; give another with --name")
    if name in OURS or name in tfds.list_builders(with_community_datasets=False):
        raise UserError(f"{name} is the name of another data set, which would be read in its place; give --name")


def write(images: str, out: Path, name: str, shards: int, worker: int, workers: int) -> Written:
    """Writes the shards of one worker that are not there yet and, when no shard is missing, the metadata.

    Args:
      images: the folder, in any layout that `data.source=folder:PATH` reads.
      out: what will be `data_dir`.
      name: of the data set.
      shards: files of each split, at most one for each image; 0: as many as tfds would make (64 MiB to 1 GiB each).
      worker: which one this is, of those that write at the same time.
      workers: how many there are; each writes every n-th shard.

    Raises:
      UserError: wrong folders, files that cannot be read, a full disk. Finished shards stay.
    """
    check_name(name)
    if out.resolve().is_relative_to(Path(images).resolve()):
        raise UserError(f"--out={out} lies in the folder of the images, and would be one of theirs; choose another")
    found = shard_plan.read(images)
    place = out / name / VERSION
    plan = shard_plan.plan(found, lambda split: _number_of_shards(split, shards))
    shard_plan.claim(place, plan)
    files = {
        split: _shards(place, name, split, numbers["images"], numbers["shards"])
        for split, numbers in plan["splits"].items()
    }
    every = [shard for shards in files.values() for shard in shards]
    own = every[worker::workers]
    _clear(place, None if workers == 1 else {shard.path.name for shard in own})
    _write_shards(found, own)
    missing = sum(not shard.path.exists() for shard in every)
    if not missing:
        _write_metadata(place, name, found, files)
    sizes = {split: numbers["images"] for split, numbers in plan["splits"].items()}
    return Written(place, sizes, len(every), missing)


def _number_of_shards(split: Split, wanted: int) -> int:
    number = tfds.core.utils.shard_utils.ShardConfig(num_shards=wanted or None)
    return min(number.get_number_shards(sum(split.sizes), len(split.files)), len(split.files))


def _shards(place: Path, name: str, split: str, images: int, shards: int) -> list[Shard]:
    paths = _template(place, name, split).sharded_filepaths(shards)
    bounds = [0, *tfds.core.utils.shard_utils.get_shard_boundaries(images, shards)]
    return [Shard(Path(path), split, *part) for path, *part in zip(paths, bounds, bounds[1:])]


def _template(place: Path, name: str, split: str) -> tfds.core.ShardedFileTemplate:
    return tfds.core.ShardedFileTemplate(data_dir=place, dataset_name=name, split=split, filetype_suffix="tfrecord")


def _features(images: Images) -> tfds.features.FeaturesDict:
    features = {"image": tfds.features.Image(), FILE_NAME: tfds.features.Text()}
    if images.has_label_maps:
        features[image_label_pairs.FEATURE] = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    elif images.classes:
        features["label"] = tfds.features.ClassLabel(names=images.classes)
    return tfds.features.FeaturesDict(features)


def _write_shards(images: Images, own: list[Shard]) -> None:
    done = [shard.path.exists() for shard in own]
    total, before = (sum(shard.stop - shard.start for shard in some) for some in (own, _chosen(own, done)))
    pool = concurrent.futures.ThreadPoolExecutor(shard_plan.READERS)
    with progress_bar(total, before) as progress:
        try:
            for shard in _chosen(own, [not there for there in done]):
                _write_shard(images, shard, pool, progress)
        finally:
            pool.shutdown(cancel_futures=True)


def _clear(place: Path, names: set[str] | None) -> None:
    """Removes what runs that were killed have left of the files of these names; None: of all."""
    for path in place.glob(f"*{PART}*"):
        if names is None or path.name.partition(PART)[0] in names:
            path.unlink(missing_ok=True)


def _chosen(shards: list[Shard], which: list[bool]) -> list[Shard]:
    return [shard for shard, wanted in zip(shards, which, strict=True) if wanted]


def _write_shard(images: Images, shard: Shard, pool: concurrent.futures.Executor, progress: tqdm) -> None:
    try:
        with shard_plan.whole(shard.path) as part, tf.io.TFRecordWriter(str(part)) as writer:
            for record in _records(images, shard, pool):
                writer.write(record)
                progress.update()
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} is gone: another process writes the same shards; start each worker once, and run the "
            "same command again when none is running"
        ) from error
    except (OSError, tf.errors.OpError) as error:
        reason = error.message if isinstance(error, tf.errors.OpError) else error.strerror or str(error)
        raise UserError(
            f"cannot write {shard.path}: {reason.splitlines()[0]}; finished shards stay: make room or see to the disk, "
            "and run the same command again, once for each worker"
        ) from error


def _records(images: Images, shard: Shard, pool: concurrent.futures.Executor) -> Iterator[bytes]:
    features, split = _features(images), images.splits[shard.split]
    serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
    for place, contents in enumerate(_contents(split, shard, pool), shard.start):
        name = folder.relative(split.files[place][0], images.root)
        example = {"image": contents[0], FILE_NAME: name.encode("utf-8", "surrogateescape")}
        if images.has_label_maps:
            example[image_label_pairs.FEATURE] = contents[1]
        elif images.classes:
            example["label"] = split.labels[place]
        # The order of the features is an accident of memory otherwise.
        yield serializer.get_tf_example(features.encode_example(example)).SerializeToString(deterministic=True)


def _contents(split: Split, shard: Shard, pool: concurrent.futures.Executor) -> Iterator[tuple[bytes, ...]]:
    """The files of each example of a shard, read by threads in advance, within bounds of memory."""
    waiting, ahead, next_place = deque(), 0, shard.start
    for place in range(shard.start, shard.stop):
        while next_place < shard.stop and (
            next_place == place or (len(waiting) < FILES_AHEAD and ahead + split.sizes[next_place] <= BYTES_AHEAD)
        ):
            waiting.append(pool.submit(_read, split.files[next_place], split.sizes[next_place]))
            ahead += split.sizes[next_place]
            next_place += 1
        yield waiting.popleft().result()
        ahead -= split.sizes[place]


def _read(paths: tuple[str, ...], size: int) -> tuple[bytes, ...]:
    contents = []
    for path in paths:
        try:
            contents.append(Path(path).read_bytes())
        except OSError as error:
            raise shard_plan.unreadable(path, error) from error
    if sum(map(len, contents)) != size:
        raise UserError(
            f"{paths[0]} has changed since the command was started; leave the images alone, and run it again"
        )
    return tuple(contents)


def _write_metadata(place: Path, name: str, images: Images, files: dict[str, list[Shard]]) -> None:
    """What makes the shards a data set; several workers may do it at once, since files are replaced by equal ones."""
    identity = tfds.core.DatasetIdentity(name, tfds.core.Version(VERSION), str(place), module_name="")
    description = "Images of a folder, as they were, in the order of a hash of their names (beit_jax.shard_dataset)."
    info = tfds.core.DatasetInfo(builder=identity, description=description, features=_features(images))
    info.set_file_format(tfds.core.FileFormat.TFRECORD)
    splits = []
    for split, shards in files.items():
        lengths = [shard.stop - shard.start for shard in shards]
        size = sum(shard.path.stat().st_size for shard in shards) - RECORD_OVERHEAD * sum(lengths)
        splits.append(tfds.core.SplitInfo(split, lengths, size, _template(place, name, split)))
    info.set_splits(tfds.core.SplitDict(splits))
    try:
        with tempfile.TemporaryDirectory() as new:
            info.write_to_directory(new)
            # tfds takes a folder with features.json for a data set.
            for file in sorted(Path(new).iterdir(), key=lambda path: path.name == "features.json"):
                with shard_plan.whole(place / file.name) as part:
                    part.write_bytes(file.read_bytes())
        # Of workers that were killed, and whose shards others wrote.
        _clear(place, {shard.path.name for shards in files.values() for shard in shards})
    except OSError as error:
        raise UserError(
            f"cannot write {place}: {error.strerror or error}; make room, and run the same command again"
        ) from error
