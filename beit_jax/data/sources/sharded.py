"""Sources that are prepared tfds data sets: TFRecord files, read several at once."""

import copy
import functools
import os
from typing import Self

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from beit_jax.data.decoding.assertions import readable_errors, require
from beit_jax.data.features import ID, Features
from beit_jax.data.sources.listed import ListedSource
from beit_jax.data.sources.source import FILE_NAME, Shard
from beit_jax.errors import UserError
from beit_jax.runtime.urls import is_bucket

FILES_AT_ONCE = 16


class ShardedSource:
    """Records of a prepared tfds data set: files in random order, several at once, through a shuffle buffer."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, shuffle_buffer: int):
        self._builder, self._split, self._buffer = builder, split, shuffle_buffer
        self.num_examples = builder.info.splits[split].num_examples
        self.waiting_threads = FILES_AT_ONCE if is_bucket(os.fspath(builder.data_dir)) else 0
        if not self.num_examples:
            raise UserError(f"found no examples in '{split}' of {builder.info.name}, expected at least one")
        features = builder.info.features
        self._has_label = "label" in features and isinstance(features["label"], tfds.features.ClassLabel)
        self._has_name = FILE_NAME in features and isinstance(features[FILE_NAME], tfds.features.Text)
        self.num_classes = self._num_labels = features["label"].num_classes if self._has_label else 1
        self.class_names = tuple(features["label"].names) if self._has_label else ()
        self._select_features("image", *(["label"] if self._has_label else []))

    def _select_features(self, *names: str) -> None:
        """Sets which features are read from records: these, and the name of the file. Images stay encoded."""
        features = self._builder.info.features
        decoders = {
            name: tfds.decode.SkipDecoding() for name in names if isinstance(features[name], tfds.features.Image)
        }
        selected = [*names, *([FILE_NAME] if self._has_name else [])]
        decoding = tfds.decode.PartialDecoding(dict.fromkeys(selected, True), decoders=decoders)
        self._features, self._decoders = decoding.extract_features(features), decoding.decoders

    def raw(self, seed: int | None, epoch: tf.Tensor, start: tf.Tensor, shard: Shard) -> tf.data.Dataset:
        """(file name, position in the file, serialized record), see `Source`. Shards are contiguous parts, shuffled."""
        split = tfds.even_splits(self._split, shard.count)[shard.index]
        files = self._builder.info.splits[split].file_instructions
        names = tf.constant([os.fspath(file.filename) for file in files])
        skips, takes = (tf.constant([getattr(file, key) for file in files], tf.int64) for key in ("skip", "take"))
        order = tf.range(len(files))
        if seed is not None:
            key = tf.stack([tf.constant(seed, tf.int64), epoch])
            order = tf.random.experimental.stateless_shuffle(order, key)
        columns = tuple(tf.gather(column, order) for column in (names, names, skips, takes))
        open_files = max(1, FILES_AT_ONCE // shard.count)
        sources = tf.data.Dataset.from_tensor_slices(columns)
        if self.waiting_threads:
            sources = sources.map(_fetch, num_parallel_calls=open_files, deterministic=True)
        records = sources.interleave(
            _read_records,
            cycle_length=open_files,
            block_length=FILES_AT_ONCE,
            num_parallel_calls=os.cpu_count() or 1,
        )
        if seed is not None:
            shuffle_seed = tf.random.stateless_uniform([], key + 1, minval=None, maxval=None, dtype=tf.int64)
            buffer = max(1, self._buffer // shard.count)  # all shards together have the buffer of the config
            records = records.shuffle(buffer, seed=shuffle_seed, reshuffle_each_iteration=False)
        return records.skip(start)

    def record(self, raw: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> Features:
        """See `Source`."""
        file, position, serialized = raw
        features = self._features.deserialize_example(serialized, decoders=self._decoders)
        label = tf.cast(features["label"], tf.int64) if self._has_label else tf.constant(0, tf.int64)
        where = tf.strings.join([file, tf.strings.as_string(position)], "#")
        name, number = features[FILE_NAME] if self._has_name else where, self._num_labels
        message = (
            "the record ",
            where,
            " has the label ",
            label,
            f", expected -1 to {number - 1}; write the data set again",
        )
        with tf.control_dependencies([require((label >= -1) & (label < number), *message)]):
            return {"image": features["image"], "label": tf.identity(label), ID: name}

    def labels(self) -> np.ndarray:
        """See `Source`. The first call reads the split."""
        return _read_labels(str(self._builder.data_dir), self._split)

    def take(self, positions: np.ndarray) -> ListedSource:
        """See `Source`. Reads the split, and holds the chosen records in memory."""
        is_chosen = np.zeros(self.num_examples, bool)
        is_chosen[positions] = True
        chosen = self._in_file_order().enumerate().filter(lambda position, raw: tf.constant(is_chosen)[position])
        records = chosen.map(lambda position, raw: (position, self.record(raw)))
        with readable_errors():
            by_position = {int(position): record for position, record in records.as_numpy_iterator()}
        columns = [[by_position[position][key] for position in positions.tolist()] for key in ("image", "label", ID)]
        return ListedSource(*columns, self.num_classes, in_files=False, class_names=self.class_names)

    def sample(self, most: int) -> Self:
        """See `Source`. The first records: tfds wrote them in random order, and few files are read then."""
        part = copy.copy(self)
        part._split = tfds.even_splits(self._split, -(-self.num_examples // most))[0]
        part.num_examples = self._builder.info.splits[part._split].num_examples
        return part

    def _in_file_order(self) -> tf.data.Dataset:
        return self.raw(None, tf.constant(0), tf.constant(0, tf.int64), Shard())


@functools.lru_cache(maxsize=8)
def _read_labels(folder: str, split: str) -> np.ndarray:
    """The labels of a prepared data set, which never changes, in file order."""
    source = ShardedSource(tfds.builder_from_directory(folder), split, 1)
    labels = source._in_file_order().map(lambda *raw: source.record(raw)["label"])
    with readable_errors():
        return np.fromiter(labels.as_numpy_iterator(), np.int64, source.num_examples)


@tf.autograph.experimental.do_not_convert
def _fetch(file: tf.Tensor, path: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Replaces the path of a file in a bucket by that of its copy: one call of Python for each file."""
    from beit_jax.runtime.bucket_cache import fetched

    (path,) = tf.numpy_function(
        lambda path: [os.fsencode(fetched(os.fsdecode(path)))], [path], [tf.string], stateful=False
    )
    return file, tf.ensure_shape(path, []), skip, take


def _read_records(file: tf.Tensor, path: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
    """The records of a file, which is called `file` in messages and names, and read at `path`."""
    # After an error in a record TensorFlow takes the file for finished. Then, and where it has too few records, its end
    # is reached. A file that cannot be opened is tried for ever where errors are ignored: one byte is read first.
    opened = tf.data.FixedLengthRecordDataset(path, 1).take(1).filter(lambda _: tf.constant(False))
    readable = tf.data.TFRecordDataset(path).ignore_errors(log_warning=False)
    end = tf.data.Dataset.from_tensors("").map(lambda nothing: _fail_at_end(file, skip + take, nothing))
    records = opened.concatenate(readable).concatenate(end).enumerate().skip(skip).take(take)
    return records.map(lambda position, serialized: (file, position, serialized))


def _fail_at_end(file: tf.Tensor, expected: tf.Tensor, nothing: tf.Tensor) -> tf.Tensor:
    message = (
        file,
        " is damaged or cut short: not all of its first ",
        expected,
        " records can be read; restore the file",
    )
    with tf.control_dependencies([require(tf.constant(False), *message, ", or write the data set again")]):
        return tf.identity(nothing)
