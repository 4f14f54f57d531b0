"""The entry point of the input: training batches addressed by the step, evaluation sets that count each example once.

The argument `config` is the section `data` of a config: `source` and `data_dir` (see `sources.open_source`), `split`,
`eval_split`, `ops` and `eval_ops` (see `preprocessing`), `labels` (see `sources.label_choice`), `repeats`,
`shuffle_buffer` (in records) and `max_bad_fraction`. Batches are dicts of NumPy arrays. Batch sizes are those of all
processes together; each process gets its part of every batch.
"""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from beit_jax.data import preprocessing
from beit_jax.data.batching import batch_spec, make_batches, plain_graph
from beit_jax.data.decoding.unreadable import UnreadableImages
from beit_jax.data.epochs import raw_epochs
from beit_jax.data.features import FAULT, ID, INDEX, ROW, TOKENIZER_IMAGE, VALID
from beit_jax.data.iterators import EvalSet, TrainStream
from beit_jax.data.preprocessing import Program
from beit_jax.data.records.stored_tokens import StoredTokens
from beit_jax.data.sources import label_subset, npy
from beit_jax.data.sources.examples import Examples
from beit_jax.data.sources.image_files import ImageFile
from beit_jax.data.sources.indexed import IndexedSource
from beit_jax.data.sources.label_choice import parse_labels
from beit_jax.data.sources.listed_once import kept
from beit_jax.data.sources.open_source import open_files, open_source
from beit_jax.data.sources.renumbered import OWN_CLASSES, ModelClasses, renumbered
from beit_jax.data.sources.source import Shard, Source, count_streams
from beit_jax.errors import UserError

with contextlib.suppress(RuntimeError):  # raised if TensorFlow is in use already; then it is too late
    tf.config.set_visible_devices([], "GPU")
# Each iterator would optimise its functions again, for seconds; the input is no faster after it (`benchmark input`).
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


class SourceInfo(NamedTuple):
    """Number of examples over all processes, and of classes: 1 without labels, 0 if it is not known (label maps)."""

    num_examples: int
    num_classes: int


class Classes(NamedTuple):
    """Number of classes, as in `SourceInfo`, and their names: empty without class folders, and of label maps."""

    number: int
    names: tuple[str, ...]


def classes(config: Any, split: str) -> Classes:
    """The classes of a split.

    Raises:
      UserError: the split cannot be read.
    """
    source = _open(config, split)
    return Classes(source.num_classes, source.class_names)


def info(config: Any) -> SourceInfo:
    """The size of the training data.

    Raises:
      UserError: the split cannot be read, or has fewer labels than `config.labels` asks for.
    """
    source = _open(config, config.split)
    if _uses_all(config):
        return SourceInfo(source.num_examples, source.num_classes)
    counts = label_subset.count_per_class(source.labels(), source.num_classes, config.labels)
    return SourceInfo(sum(counts), source.num_classes)


def count(config: Any, split: str) -> int:
    """The number of examples in a split, whatever `config.labels` says.

    Raises:
      UserError: the split cannot be read.
    """
    return _open(config, split).num_examples


def spec(config: Any, split: str, ops: str) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of everything in a batch of one example that `ops` make of a split; no image is read.

    Raises:
      UserError: the split cannot be read, or the ops cannot be parsed.
    """
    return _spec(config.source, config.data_dir, split, ops)


@kept
def _spec(source_name: str, data_dir: str, split: str, ops: str) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    source = open_source(source_name, data_dir, split, shuffle_buffer=1)
    zero = tf.constant(0, tf.int64)
    with_seed = plain_graph(lambda index, raw: (tf.stack([zero, index]), True, raw))
    dataset = source.raw(None, zero, zero, Shard()).enumerate().map(with_seed)
    return {
        name: (tuple(tensor.shape), np.dtype(tensor.dtype.as_numpy_dtype))
        for name, tensor in batch_spec(dataset, source, _program(ops)).items()
        if name not in (ID, FAULT, VALID, INDEX, ROW)
    }


def same_batches(config: Any, batch_size: int, processes: int, others: int) -> bool:
    """Whether `processes` processes see the same batches as `others` processes."""
    return count_streams(batch_size, config.repeats, processes) == count_streams(batch_size, config.repeats, others)


def make_train(
    config: Any,
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    log: Path | None = None,
    tokens: StoredTokens | None = None,
    num_classes: int = 0,
    classes: ModelClasses = OWN_CLASSES,
) -> TrainStream:
    """Batches of `config.split` through `config.ops` from `start_step` on: dicts of arrays `[batch / processes, ...]`.

    A stream that starts at step k yields what a stream that starts at 0 yields from its k-th batch on, bit for bit.
    Records before that are skipped undecoded.

    Args:
      config: of the input.
      seed: of the order, of all random ops and of the choice of labels.
      batch_size: examples of a step, over all processes.
      start_step: of the first batch.
      process_index: which process this is.
      process_count: number of processes.
      log: the file for the names of unreadable images, see `UnreadableImages`.
      tokens: the stored tokens of the same batches. They replace the tokenizer's view, which is then not made.
      num_classes: of the model; a label map with other labels than these and 255 stops the stream. 0: not known.
      classes: the numbers that labels get.

    Raises:
      UserError: the split has less than one batch, or cannot be read.
    """
    if not 0 <= seed < 2**31:
        raise UserError(f"found the seed {seed}; expected a whole number from 0 to 2147483647")
    source, process = _open_train_split(config, seed, classes), Shard(process_index, process_count)
    local_batch = _local_batch_size(batch_size, process_count)
    steps_per_epoch = source.num_examples // batch_size
    if not steps_per_epoch:
        raise UserError(
            f"found {source.num_examples} examples in '{config.split}' of {config.source}, expected at least one batch "
            f"of {batch_size}; lower the batch size"
        )

    def seeds_of_step(step: tf.Tensor) -> tf.Tensor:
        """int64 `[b, 2]`: the seed of the run and the epoch as one number, and the position in the epoch."""
        rows = process_index * local_batch + tf.range(local_batch, dtype=tf.int64)
        epoch = tf.fill([local_batch], seed * 2**32 + step // steps_per_epoch)
        return tf.stack([epoch, step % steps_per_epoch * batch_size + rows], axis=1)

    seeds = tf.data.Dataset.counter(tf.constant(start_step, tf.int64)).map(plain_graph(seeds_of_step)).unbatch()
    raw = raw_epochs(source, config.repeats, seed, batch_size, process, start_step)
    dataset = tf.data.Dataset.zip((seeds, tf.data.Dataset.from_tensors(True).repeat(), raw))
    program, reader = _program(config.ops), None
    if tokens:
        program = preprocessing.without_image(program, TOKENIZER_IMAGE)
        reader = tokens.reader(start_step, process_index * local_batch)
    batches = make_batches(dataset, source, program, local_batch, num_classes)
    return TrainStream(source, batches, steps_per_epoch, UnreadableImages(config.max_bad_fraction, log), reader)


def make_eval(
    config: Any,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    log: Path | None = None,
    num_classes: int = 0,
    classes: ModelClasses = OWN_CLASSES,
    most: int = 0,
) -> EvalSet:
    """`config.eval_split` through `config.eval_ops`: full batches `[batch / processes, ...]` with `valid` bool `[b]`.

    Over all processes each example is valid exactly once, and unreadable ones never. Every process has the same number
    of batches, filled up with repeated examples. Random ops draw the same numbers in every pass. A pass ends with a
    UserError if too many images were unreadable; for `num_classes` see `make_train`. At most `most` examples are
    read, the same in every pass (`Source.sample`); 0: all.
    """
    source, process = renumbered(_open(config, config.eval_split), classes), Shard(process_index, process_count)
    source = source.sample(most) if 0 < most < source.num_examples else source
    where, unreadable = f"'{config.eval_split}' of {config.source}", UnreadableImages(config.max_bad_fraction, log)
    return _each_once(source, where, config.eval_ops, batch_size, process, unreadable, num_classes)


def make_train_once(
    config: Any,
    ops: str,
    *,
    seed: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    log: Path | None = None,
    classes: ModelClasses = OWN_CLASSES,
    most: int = 0,
) -> EvalSet:
    """As `make_eval`, for the examples that `make_train` reads with this seed, through `ops`."""
    source, process = _open_train_split(config, seed, classes), Shard(process_index, process_count)
    source = source.sample(most) if 0 < most < source.num_examples else source
    where, unreadable = f"'{config.split}' of {config.source}", UnreadableImages(config.max_bad_fraction, log)
    return _each_once(source, where, ops, batch_size, process, unreadable)


def make_predict(config: Any, images: Sequence[ImageFile], *, batch_size: int, unreadable: UnreadableImages) -> EvalSet:
    """Images through `config.eval_ops`, as `make_eval` makes them, each valid once; their `index` counts `images`.

    Args:
      config: of the input, of which nothing else matters.
      images: files, or rows of one array, see `find_images`.
      batch_size: examples of a batch.
      unreadable: takes the files that cannot be read.
    """
    if images[0].row < 0:
        source = open_files([image.path for image in images], [0] * len(images), 1)
    else:
        array, rows = npy.open_images(images[0].path), np.array([image.row for image in images])
        source = IndexedSource(Examples(array, array.shape[0], None, 1, (), array.digest, chosen=rows))
    return _each_once(source, f"{len(images)} images", config.eval_ops, batch_size, Shard(), unreadable)


def _open(config: Any, split: str) -> Source:
    return open_source(config.source, config.data_dir, split, config.shuffle_buffer)


def _uses_all(config: Any) -> bool:
    return parse_labels(config.labels).fraction == 1


def _open_train_split(config: Any, seed: int, classes: ModelClasses) -> Source:
    """The examples of the training split that `config.labels` and the seed choose."""
    source = renumbered(_open(config, config.split), classes)
    if _uses_all(config):
        return source
    return source.take(label_subset.choose_examples(source.labels(), source.num_classes, config.labels, seed))


def _each_once(
    source: Source,
    where: str,
    ops: str,
    batch_size: int,
    process: Shard,
    unreadable: UnreadableImages,
    num_classes: int = 0,
) -> EvalSet:
    """Every example of a source, which is called `where` in messages, once, in file order."""
    if source.num_examples < process.count:
        raise UserError(
            f"found {source.num_examples} examples in {where} for {process.count} processes, expected at least one "
            "each; evaluate on fewer"
        )
    local_batch = _local_batch_size(batch_size, process.count)
    steps = -(-source.num_examples // batch_size)
    first, end = process.bounds(source.num_examples)
    zero = tf.constant(0, tf.int64)

    def with_seed(count: tf.Tensor, raw: Any) -> tuple:
        return tf.stack([zero, first + count]), first + count < end, raw

    raw = source.raw(None, zero, zero, process).repeat().take(steps * local_batch)
    dataset = raw.enumerate().map(plain_graph(with_seed))
    batches = make_batches(dataset, source, _program(ops), local_batch, num_classes)
    return EvalSet(source, batches, steps, unreadable)


def _local_batch_size(batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"found the batch size {batch_size} for {process_count} processes, expected a multiple of their number"
        )
    return batch_size // process_count


def _program(ops: str) -> Program:
    if not re.match(r"\s*decode(_view)?\b", ops):
        raise UserError(f"the ops '{ops}' do not begin with decode, which every image needs; put 'decode|' before them")
    return preprocessing.build_program(ops)
