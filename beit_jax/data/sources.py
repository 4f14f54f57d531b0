"""Where examples come from: undecoded records in an order that depends on (seed, epoch) alone.

A source hands out small raw elements (a position, or a serialized record) and reads one into features later, so that
shuffling and skipping never touch pixels. Both methods are called inside a tf.data graph.
"""

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from beit_jax.data.assertions import first_that_works
from beit_jax.data.folder import is_paired, list_folder, list_pairs
from beit_jax.data.registry import Features
from beit_jax.errors import UserError

ID = "_id"  # names a record in messages
FILE_NAME = "file_name"  # the feature of tfds data sets that tells where a record comes from
FILES_AT_ONCE = 16
STREAMS = 8


class Share(NamedTuple):
    """One of the parts into which the examples are split: a stream of training, or what a process evaluates."""

    index: int = 0
    count: int = 1


def streams(batch_size: int, repeats: int, processes: int) -> int:
    """Into how many shares an epoch of training is split, each of which fills a block of rows of every batch.

    Up to `STREAMS` processes divide the same shares among themselves, so that batches do not depend on their number.
    Where it does not divide the shares, each process has one.
    """
    groups = batch_size // repeats if batch_size % repeats == 0 else 1  # all views of an image in one batch
    shares = next(number for number in range(min(STREAMS, groups), 0, -1) if groups % number == 0)
    return processes if shares % processes else shares


class Source(Protocol):
    """Labelled images of one split: their number over all processes, and the two steps of reading them."""

    num_examples: int
    num_classes: int

    def raw(self, seed: int | None, epoch: tf.Tensor, start: tf.Tensor, share: Share) -> tf.data.Dataset:
        """The raw elements of a share of an epoch from the `start`-th on; contiguous in file order if `seed` is None.

        Shares differ by one element at most, and the first ones are the longer ones.
        """

    def record(self, raw: Any) -> Features:
        """`image`, the bytes of a file, `label`, int64, or `label_map`, the bytes of a PNG file, and `_id`, a name."""

    def labels(self) -> np.ndarray:
        """int64 `[n]`, in file order."""

    def take(self, positions: np.ndarray) -> "Listed":
        """The source of the records at these positions of the file order."""


class Listed:
    """Records with random access: files of a folder, or bytes in memory. Every epoch is a full permutation of them."""

    def __init__(self, images: list, labels: list[int], ids: list, num_classes: int, in_files: bool):
        self.num_examples, self.num_classes = len(images), num_classes
        self._images, self._labels = tf.constant(images), tf.constant(labels, tf.int64)
        self._ids = self._images if ids is images else tf.constant(ids)
        self._in_files = in_files

    def raw(self, seed: int | None, epoch: tf.Tensor, start: tf.Tensor, share: Share) -> tf.data.Dataset:
        """Positions in the split, int64; see `Source`. Share i of n is every n-th one of the epoch's order."""
        order = tf.range(self.num_examples, dtype=tf.int64)
        if seed is None:
            least, more = divmod(self.num_examples, share.count)
            first = share.index * least + min(share.index, more)
            own = order[first : first + least + (share.index < more)]
            return tf.data.Dataset.from_tensor_slices(own[start:])
        # A real permutation: the cheaper index_shuffle is far from even for the few labelled examples of a task.
        order = tf.random.experimental.stateless_shuffle(order, tf.stack([tf.constant(seed, tf.int64), epoch]))
        return tf.data.Dataset.from_tensor_slices(order[share.index + start * share.count :: share.count])

    def record(self, raw: tf.Tensor) -> Features:
        """See `Source`."""
        image = self._images[raw]
        image = read_file(image) if self._in_files else image
        return {"image": image, "label": self._labels[raw], ID: self._ids[raw]}

    def labels(self) -> np.ndarray:
        """See `Source`."""
        return self._labels.numpy()

    def take(self, positions: np.ndarray) -> "Listed":
        """See `Source`."""
        columns = [column.numpy()[positions].tolist() for column in (self._images, self._labels, self._ids)]
        return Listed(*columns, self.num_classes, self._in_files)


class Sharded:
    """Records of a prepared tfds dataset: files in random order, several at once, through a buffer of records."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, shuffle_buffer: int):
        self._builder, self._split, self._buffer = builder, split, shuffle_buffer
        self.num_examples = builder.info.splits[split].num_examples
        if not self.num_examples:
            raise UserError(f"found no examples in '{split}' of {builder.info.name}, expected at least one")
        features = builder.info.features
        self._has_label = "label" in features and isinstance(features["label"], tfds.features.ClassLabel)
        self._has_name = FILE_NAME in features and isinstance(features[FILE_NAME], tfds.features.Text)
        self.num_classes = features["label"].num_classes if self._has_label else 1
        self._read("image", *(["label"] if self._has_label else []))

    def _read(self, *wanted: str) -> None:
        """Sets which features records are read into: these, and the name of the file; images stay encoded."""
        features = self._builder.info.features
        as_stored = {
            name: tfds.decode.SkipDecoding() for name in wanted if isinstance(features[name], tfds.features.Image)
        }
        kept = [*wanted, *([FILE_NAME] if self._has_name else [])]
        decoding = tfds.decode.PartialDecoding(dict.fromkeys(kept, True), decoders=as_stored)
        self._features, self._decoders = decoding.extract_features(features), decoding.decoders

    def raw(self, seed: int | None, epoch: tf.Tensor, start: tf.Tensor, share: Share) -> tf.data.Dataset:
        """(file name, position in the file, serialized record); see `Source`. Shares are contiguous parts, shuffled."""
        split = tfds.even_splits(self._split, share.count)[share.index]
        files = self._builder.info.splits[split].file_instructions
        names = tf.constant([os.fspath(file.filename) for file in files])
        skips, takes = (tf.constant([getattr(file, key) for file in files], tf.int64) for key in ("skip", "take"))
        order = tf.range(len(files))
        if seed is not None:
            key = tf.stack([tf.constant(seed, tf.int64), epoch])
            order = tf.random.experimental.stateless_shuffle(order, key)
        columns = tuple(tf.gather(column, order) for column in (names, skips, takes))
        records = tf.data.Dataset.from_tensor_slices(columns).interleave(
            _records_of,
            cycle_length=max(1, FILES_AT_ONCE // share.count),
            block_length=FILES_AT_ONCE,
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        if seed is not None:
            shuffle_seed = tf.random.stateless_uniform([], key + 1, minval=None, maxval=None, dtype=tf.int64)
            window = max(1, self._buffer // share.count)  # the buffer is that of all shares together
            records = records.shuffle(window, seed=shuffle_seed, reshuffle_each_iteration=False)
        return records.skip(start)

    def record(self, raw: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> Features:
        """See `Source`."""
        name, position, serialized = raw
        features = self._features.deserialize_example(serialized, decoders=self._decoders)
        label = features["label"] if self._has_label else tf.constant(0, tf.int64)
        place = features[FILE_NAME] if self._has_name else tf.strings.join([name, tf.strings.as_string(position)], "#")
        return {"image": features["image"], "label": label, ID: place}

    def labels(self) -> np.ndarray:
        """See `Source`; reads the split, the first time."""
        return _labels(str(self._builder.data_dir), self._split)

    def take(self, positions: np.ndarray) -> Listed:
        """See `Source`; reads the split, and holds these records in memory."""
        wanted = np.zeros(self.num_examples, bool)
        wanted[positions] = True
        chosen = self._in_file_order().enumerate().filter(lambda place, raw: tf.constant(wanted)[place])
        found = {int(place): record for place, record in chosen.map(self._numbered).as_numpy_iterator()}
        columns = [[found[place][key] for place in positions.tolist()] for key in ("image", "label", ID)]
        return Listed(*columns, self.num_classes, in_files=False)

    def _in_file_order(self) -> tf.data.Dataset:
        return self.raw(None, tf.constant(0), tf.constant(0, tf.int64), Share())

    def _numbered(self, place: tf.Tensor, raw: Any) -> tuple[tf.Tensor, Features]:
        return place, self.record(raw)


@functools.lru_cache(maxsize=8)
def _labels(folder: str, split: str) -> np.ndarray:
    """The labels of a prepared dataset, which never changes, in file order."""
    source = Sharded(tfds.builder_from_directory(folder), split, 1)
    labels = source._in_file_order().map(lambda *raw: source.record(raw)["label"])
    return np.fromiter(labels.as_numpy_iterator(), np.int64, source.num_examples)


def read_file(path: tf.Tensor) -> tf.Tensor:
    """The bytes of a file; none, which are no image, where it cannot be opened."""
    return first_that_works(path, tf.io.read_file, lambda path: tf.constant(""))


def _records_of(name: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
    records = tf.data.TFRecordDataset(name).enumerate().skip(skip).take(take)
    return records.map(lambda position, serialized: (name, position, serialized))


def open_source(name: str, data_dir: str, split: str, shuffle_buffer: int) -> Listed | Sharded:
    """The source that `name` stands for: "digits", "digit_scenes", "folder:PATH", or a prepared tfds dataset's name.

    `data_dir` is where tfds datasets lie ("" for tfds' default). Where there are label maps beside the images, they
    take the place of the labels (see `pairs`). Raises UserError when there is nothing to read.
    """
    from beit_jax.data import pairs  # which is built on this file

    if name.startswith("folder:"):
        return _listed(name.removeprefix("folder:"), split)
    builder = prepared(name, data_dir or None)
    kind = pairs.ShardedPairs if pairs.has_label_maps(builder) else Sharded
    try:
        return kind(builder, split, shuffle_buffer)
    except (ValueError, KeyError) as error:
        known = ", ".join(f"{key} ({info.num_examples})" for key, info in builder.info.splits.items())
        raise UserError(f"cannot read split '{split}' of {name}, which has {known}: {_first_line(error)}") from None


@functools.lru_cache(maxsize=4)
def _listed(folder: str, split: str) -> Listed:
    """The files of a folder, listed once: all that a run asks of a split is asked of the same files."""
    from beit_jax.data import pairs

    if is_paired(folder):
        return pairs.ListedPairs(list_pairs(folder, split))
    listing = list_folder(folder, split)
    return Listed(listing.paths, listing.labels, listing.paths, listing.num_classes, in_files=True)


def prepared(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The tfds dataset of a name; raises UserError where it is not prepared in `data_dir`, or has no images."""
    if name == "digits":
        from beit_jax.data import digits

        return digits.prepared(data_dir)
    if name == "digit_scenes":
        from beit_jax.data import digit_scenes, digits

        return digits.prepared(data_dir, digit_scenes.DigitScenes)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:
        hint = f"'folder:{name}'" if Path(name).is_dir() else "digits, digit_scenes, folder:PATH or a tfds name"
        raise UserError(f"there is no dataset '{name}' ({_first_line(error)}); expected {hint}") from None
    if not builder.info.splits:
        folder = data_dir or Path(builder.data_dir).parents[len(Path(builder.name).parts)]
        raise UserError(f"{name} is not prepared in {folder}; run: tfds build {name} --data_dir={folder}")
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise UserError(f"{name} is stored as {builder.info.file_format.value}, expected tfrecord; prepare it again so")
    features = builder.info.features
    if "image" not in features or not isinstance(features["image"], tfds.features.Image):
        raise UserError(f"{name} has the features {', '.join(features.keys())}; expected an image named 'image'")
    return builder


def _first_line(error: Exception) -> str:
    return str(error).strip("'\"").split("\n")[0]
