"""The door of the input: training batches addressed by the step, evaluation sets that count each example once.

A config has `source` (see `sources.open_source`), `data_dir`, `split`, `eval_split`, `ops`, `eval_ops` (see
`registry`), `labels` (see `parse_labels`), `repeats`, `shuffle_buffer` (records) and
`max_bad_fraction`. Batches are dicts of NumPy arrays; batch sizes are over all processes, of which each one gets its
share of rows.
"""

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from beit_jax.data import preprocessing
from beit_jax.data.batches import INDEX, ROW, VALID, EvalSet, TrainStream
from beit_jax.data.decoding.assertions import map_in_blocks
from beit_jax.data.decoding.decode import FAULT, LABEL_MAP, mended
from beit_jax.data.decoding.unreadable import Unreadable
from beit_jax.data.ops.image import LEVELS, unit_range
from beit_jax.data.preprocessing import Features, Program
from beit_jax.data.records.stored_tokens import StoredTokens
from beit_jax.data.sources import label_subset
from beit_jax.data.sources.label_choice import parse_labels
from beit_jax.data.sources.open_source import open_source
from beit_jax.data.sources.source import ID, Shard, Source, streams
from beit_jax.errors import UserError

SEED = "_seed"
COUNTS = "_counts"  # false for rows that fill up the last batches of an evaluation
TOKENIZER_IMAGE = "tokenizer_image"
IMAGES = {"image", TOKENIZER_IMAGE}
EPOCHS = 2**31
BATCHES_AHEAD = 2

# Without TensorFlow's rewriting of Python, which nothing here needs and which makes ten lines of an error's one.
plain_graph = tf.autograph.experimental.do_not_convert

with contextlib.suppress(RuntimeError):  # raised if TensorFlow is in use already, and then it is too late
    tf.config.set_visible_devices([], "GPU")


class SourceInfo(NamedTuple):
    """Number of examples over all processes, and of classes: 1 without labels, 0 if label maps do not tell."""

    num_examples: int
    num_classes: int


def info(config: Any) -> SourceInfo:
    """What there is to train on; raises UserError when it cannot be read, or holds too few labels."""
    source = _open(config, config.split)
    if _uses_all(config):
        return SourceInfo(source.num_examples, source.num_classes)
    counts = label_subset.count_per_class(source.labels(), source.num_classes, config.labels)
    return SourceInfo(sum(counts), source.num_classes)


def _open(config: Any, split: str) -> Source:
    return open_source(config.source, config.data_dir, split, config.shuffle_buffer)


def _uses_all(config: Any) -> bool:
    return parse_labels(config.labels).fraction == 1


def _open_train_split(config: Any, seed: int) -> Source:
    """The examples of the training split that `config.labels` lets a run of this seed see."""
    source = _open(config, config.split)
    if _uses_all(config):
        return source
    return source.take(label_subset.choose_examples(source.labels(), source.num_classes, config.labels, seed))


def spec(config: Any, split: str, ops: str) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of everything in a batch of one example that `ops` make of a split; no image is read.

    Raises UserError when the split cannot be read or the ops cannot be understood.
    """
    source = _open(config, split)
    zero = tf.constant(0, tf.int64)
    numbered = plain_graph(lambda place, raw: (tf.stack([zero, place]), True, raw))
    dataset = source.raw(None, zero, zero, Shard()).enumerate().map(numbered)
    found = _batches(dataset, source, _program(ops), 1).element_spec
    return {
        name: (tuple(part.shape), np.dtype(part.dtype.as_numpy_dtype))
        for name, part in found.items()
        if name not in (ID, FAULT, VALID, INDEX, ROW)
    }


def same_batches(config: Any, batch_size: int, processes: int, others: int) -> bool:
    """Whether one number of processes sees the batches that another number sees."""
    return streams(batch_size, config.repeats, processes) == streams(batch_size, config.repeats, others)


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
) -> TrainStream:
    """Batches of `config.split` through `config.ops` from `start_step` on: dicts of arrays `[batch / processes, ...]`.

    A stream started at step k yields what one started at 0 yields from its k-th batch on, bit for bit; records before
    that are skipped undecoded. `log` is the file of `Unreadable`. With `tokens`, those of this very stream take the
    place of the tokenizer's view, which is not made. Raises UserError for a split below one batch.
    """
    if not 0 <= seed < 2**31:
        raise UserError(f"found the seed {seed}; expected a whole number from 0 to 2147483647")
    source = _open_train_split(config, seed)
    rows = _rows_per_process(batch_size, process_count)
    count = streams(batch_size, config.repeats, process_count)
    block = batch_size // count  # neighbouring rows of each batch, which one stream fills
    own = range(process_index * count // process_count, (process_index + 1) * count // process_count)
    steps_per_epoch = source.num_examples // batch_size
    if not steps_per_epoch:
        raise UserError(
            f"found {source.num_examples} examples in '{config.split}' of {config.source}, expected at least one batch "
            f"of {batch_size}; lower the batch size"
        )
    first_epoch, first_step = divmod(start_step, steps_per_epoch)

    def stream(index: int, epoch: tf.Tensor, start: tf.Tensor) -> tf.data.Dataset:
        raw = source.raw(seed, epoch, start // config.repeats, Shard(index, count))
        if config.repeats > 1:
            raw = raw.flat_map(plain_graph(lambda *element: _repeated(element, config.repeats)))
        return raw.skip(start % config.repeats).take(steps_per_epoch * block - start)

    def epoch_of_raw(epoch: tf.Tensor) -> tf.data.Dataset:
        start = tf.where(epoch == first_epoch, tf.constant(first_step * block, tf.int64), 0)
        turns = tf.data.Dataset.range(len(own)).flat_map(plain_graph(lambda turn: _repeated((turn,), block))).repeat()
        return tf.data.Dataset.choose_from_datasets([stream(index, epoch, start) for index in own], turns)

    def address(place: tf.Tensor) -> tf.Tensor:
        step, row = place // rows, place % rows + process_index * rows
        return tf.stack([seed * 2**32 + step // steps_per_epoch, step % steps_per_epoch * batch_size + row])

    raw = tf.data.Dataset.range(first_epoch, EPOCHS).flat_map(plain_graph(epoch_of_raw))
    places = tf.data.Dataset.counter(tf.constant(start_step * rows, tf.int64))
    dataset = tf.data.Dataset.zip((places, raw)).map(plain_graph(lambda place, raw: (address(place), True, raw)))
    program, given = _program(config.ops), None
    if tokens:
        program = preprocessing.without(program, TOKENIZER_IMAGE)
        given = tokens.reader(start_step, process_index * rows)
    batches = _batches(dataset, source, program, rows)
    return TrainStream(source, batches, steps_per_epoch, Unreadable(config.max_bad_fraction, log), given)


def make_eval(
    config: Any, *, batch_size: int, process_index: int = 0, process_count: int = 1, log: Path | None = None
) -> EvalSet:
    """`config.eval_split` through `config.eval_ops`: full batches `[batch / processes, ...]` with `valid` bool `[b]`.

    Over all processes each example is valid exactly once, unreadable ones never; every process has the same number of
    batches, filled up with repeated examples. Random ops draw the same numbers in every pass. Raises UserError at the
    end of a pass if too many images were unreadable.
    """
    source, process = _open(config, config.eval_split), Shard(process_index, process_count)
    return _once(config, source, config.eval_split, config.eval_ops, batch_size, process, log)


def make_train_once(
    config: Any,
    ops: str,
    *,
    seed: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    log: Path | None = None,
) -> EvalSet:
    """As `make_eval`, of the examples that `make_train` reads with this seed, through `ops`."""
    source = _open_train_split(config, seed)
    return _once(config, source, config.split, ops, batch_size, Shard(process_index, process_count), log)


def _once(
    config: Any, source: Source, split: str, ops: str, batch_size: int, process: Shard, log: Path | None
) -> EvalSet:
    """Every example of a source once, in file order."""
    if source.num_examples < process.count:
        raise UserError(
            f"found {source.num_examples} examples in '{split}' of {config.source} for {process.count} "
            "processes, expected at least one each; evaluate on fewer"
        )
    rows = _rows_per_process(batch_size, process.count)
    steps = -(-source.num_examples // batch_size)
    least, more = divmod(source.num_examples, process.count)
    own, first = least + (process.index < more), process.index * least + min(process.index, more)
    zero = tf.constant(0, tf.int64)

    def numbered(place: tf.Tensor, raw: Any) -> tuple:
        return tf.stack([zero, first + place]), place < own, raw

    raw = source.raw(None, zero, zero, process).repeat().take(steps * rows)
    dataset = raw.enumerate().map(plain_graph(numbered))
    batches = _batches(dataset, source, _program(ops), rows)
    return EvalSet(source, batches, steps, Unreadable(config.max_bad_fraction, log))


def _repeated(element: tuple, times: int) -> tf.data.Dataset:
    """A raw element several times over: each copy has its own place in the epoch, and so its own random numbers."""
    return tf.data.Dataset.from_tensors(element if len(element) > 1 else element[0]).repeat(times)


def _rows_per_process(batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"found the batch size {batch_size} for {process_count} processes, expected a multiple of their number"
        )
    return batch_size // process_count


def _program(ops: str) -> Program:
    if not re.match(r"\s*decode(_view)?\b", ops):
        raise UserError(f"the ops '{ops}' do not begin with decode, which every image needs; put 'decode|' before them")
    return preprocessing.build(ops)


def _batches(dataset: tf.data.Dataset, source: Source, program: Program, rows: int) -> tf.data.Dataset:
    """Batches of (seed [2], whether the row counts, raw element) examples."""

    def read(seed: tf.Tensor, counts: tf.Tensor, raw: Any) -> Features:
        return {**source.record(raw), SEED: seed, COUNTS: counts}

    dataset = on_examples(dataset, program, read)
    unknown = [key for key, spec in dataset.element_spec.items() if not spec.shape.is_fully_defined()]
    if unknown:
        op = "pad_to(...)" if LABEL_MAP in dataset.element_spec else "resize(...)"
        raise UserError(f"the ops leave '{unknown[0]}' with sides that may differ between examples; add {op}")
    dataset = dataset.batch(rows, drop_remainder=True)
    dataset = dataset.map(plain_graph(lambda batch: _finish(batch, program)), num_parallel_calls=BATCHES_AHEAD)
    return dataset.prefetch(BATCHES_AHEAD).with_options(_options())


def on_examples(dataset: tf.data.Dataset, program: Program, read: Callable[..., Features]) -> tf.data.Dataset:
    """What the ops on single images make of the encoded features that `read` makes of an element, `SEED` among them."""

    def hope(*element: Any) -> Features:
        return {**read(*element), FAULT: tf.constant("")}

    def mend(*element: Any) -> Features:
        return mended(read(*element))

    return map_in_blocks(dataset, lambda features: program.example(features, features[SEED]), hope, mend)


def _finish(batch: Features, program: Program) -> Features:
    seeds, counts, names, faults = (batch.pop(key) for key in (SEED, COUNTS, ID, FAULT))
    readable = faults == ""
    batch[ROW] = tf.range(tf.size(faults))
    batch = tf.cond(tf.reduce_all(readable), lambda: batch, lambda: _without_unreadable(batch, readable))
    batch = program.batch(batch, seeds)
    if batch.pop(LEVELS, None) is None:
        for key in IMAGES & batch.keys():
            batch[key] = unit_range(batch[key])
    if "label" in batch:
        batch["label"] = tf.cast(batch["label"], tf.int32)
    if LABEL_MAP in batch:
        batch[LABEL_MAP] = tf.cast(batch[LABEL_MAP][..., 0], tf.int32)
    unread = {key: tf.boolean_mask(column, counts & ~readable) for key, column in ((ID, names), (FAULT, faults))}
    return {**batch, VALID: counts & readable, INDEX: seeds[:, 1], **unread}


def _without_unreadable(batch: Features, readable: tf.Tensor) -> Features:
    """Each unreadable row replaced by the readable one before it, or else by the first; black if there is none."""
    good = tf.cond(tf.reduce_any(readable), lambda: tf.where(readable)[:, 0], lambda: tf.zeros([1], tf.int64))
    place = tf.range(tf.size(readable, tf.int64))
    rows = tf.gather(good, tf.maximum(tf.searchsorted(good, place, side="right") - 1, 0))
    return {key: tf.gather(value, rows) for key, value in batch.items()}


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # Threads of its own, and one image per thread: JAX's host threads are left alone.
    options.threading.private_threadpool_size = os.cpu_count() or 1
    options.threading.max_intra_op_parallelism = 1
    return options
