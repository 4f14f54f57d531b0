"""Sources that are prepared tfds data sets: TFRecord files, read several at once."""

import functools
import os
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from beit_jax.data.preprocessing import Features
from beit_jax.data.sources.listed import Listed
from beit_jax.data.sources.source import FILE_NAME, ID, Shard
from beit_jax.errors import UserError

FILES_AT_ONCE = 16


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

    def raw(self, seed: int | None, epoch: tf.Tensor, start: tf.Tensor, share: Shard) -> tf.data.Dataset:
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
        return self.raw(None, tf.constant(0), tf.constant(0, tf.int64), Shard())

    def _numbered(self, place: tf.Tensor, raw: Any) -> tuple[tf.Tensor, Features]:
        return place, self.record(raw)


@functools.lru_cache(maxsize=8)
def _labels(folder: str, split: str) -> np.ndarray:
    """The labels of a prepared dataset, which never changes, in file order."""
    source = Sharded(tfds.builder_from_directory(folder), split, 1)
    labels = source._in_file_order().map(lambda *raw: source.record(raw)["label"])
    return np.fromiter(labels.as_numpy_iterator(), np.int64, source.num_examples)


def _records_of(name: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
    records = tf.data.TFRecordDataset(name).enumerate().skip(skip).take(take)
    return records.map(lambda position, serialized: (name, position, serialized))
