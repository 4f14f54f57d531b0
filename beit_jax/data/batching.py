"""From the undecoded elements of a source to finished batches, inside a tf.data graph."""

import functools
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from beit_jax.data.decoding.assertions import map_with_fallback, require
from beit_jax.data.decoding.decode import replace_unreadable
from beit_jax.data.features import (
    COUNTS,
    FAULT,
    ID,
    INDEX,
    KEEP_LEVELS,
    LABEL_MAP,
    ROW,
    SEED,
    TOKENIZER_IMAGE,
    VALID,
    Features,
)
from beit_jax.data.ops.image import unit_range
from beit_jax.data.preprocessing import Program
from beit_jax.data.sources.source import Source
from beit_jax.errors import UserError
from beit_jax.models.label_maps import IGNORE

BATCHES_AHEAD = 2

# Without AutoGraph, which rewrites Python for TensorFlow: nothing here needs it, and it makes one line of an error ten.
plain_graph = tf.autograph.experimental.do_not_convert


def make_batches(
    dataset: tf.data.Dataset, source: Source, program: Program, batch_size: int, num_classes: int = 0
) -> tf.data.Dataset:
    """Batches of examples.

    Args:
      dataset: of (seed [2], whether the example counts, raw element of the source).
      source: of the raw elements.
      program: the ops.
      batch_size: examples of a batch.
      num_classes: a larger label in a label map stops the input; 0: none does.

    Raises:
      UserError: the ops fail, or their results differ in size.
    """
    program = _with_checked_labels(program, num_classes) if num_classes else program
    dataset = map_examples(dataset, program, functools.partial(_read, source))
    return _batch(dataset, program, batch_size).prefetch(BATCHES_AHEAD).with_options(_options(source))


def batch_spec(dataset: tf.data.Dataset, source: Source, program: Program) -> dict[str, tf.TensorSpec]:
    """What `make_batches` makes for a batch size of 1, without the time that it takes to prepare for errors."""

    def run(*element: Any) -> Features:
        features = {**_read(source, *element), FAULT: tf.constant("")}
        return program.example(features, features[SEED])

    return _batch(dataset.map(plain_graph(run)), program, 1).element_spec


def _read(source: Source, seed: tf.Tensor, counts: tf.Tensor, raw: Any) -> Features:
    return {**source.record(raw), SEED: seed, COUNTS: counts}


def _batch(dataset: tf.data.Dataset, program: Program, batch_size: int) -> tf.data.Dataset:
    unknown = [key for key, spec in dataset.element_spec.items() if not spec.shape.is_fully_defined()]
    if unknown:
        op = "pad_to(...)" if LABEL_MAP in dataset.element_spec else "resize(...)"
        raise UserError(f"the ops leave '{unknown[0]}' with sides that may differ between examples; add {op}")
    dataset = dataset.batch(batch_size, drop_remainder=True)
    return dataset.map(plain_graph(lambda batch: _finish_batch(batch, program)), num_parallel_calls=BATCHES_AHEAD)


def map_examples(dataset: tf.data.Dataset, program: Program, read: Callable[..., Features]) -> tf.data.Dataset:
    """Runs the ops on single examples.

    Args:
      dataset: of raw elements.
      program: the ops.
      read: makes features of a raw element: the bytes of files, and `SEED`.
    """

    def optimistic(*element: Any) -> Features:
        return {**read(*element), FAULT: tf.constant("")}

    def fallback(*element: Any) -> Features:
        return replace_unreadable(read(*element), program.channels)

    return map_with_fallback(dataset, lambda features: program.example(features, features[SEED]), optimistic, fallback)


def _finish_batch(batch: Features, program: Program) -> Features:
    seeds, counts, names, faults = (batch.pop(key) for key in (SEED, COUNTS, ID, FAULT))
    readable = faults == ""
    batch[ROW] = tf.range(tf.size(faults))
    batch = tf.cond(tf.reduce_all(readable), lambda: batch, lambda: _repeat_readable(batch, readable))
    batch = program.batch(batch, seeds)
    if batch.pop(KEEP_LEVELS, None) is None:
        for key in {"image", TOKENIZER_IMAGE} & batch.keys():
            batch[key] = unit_range(batch[key])
    if "label" in batch:
        batch["label"] = tf.cast(batch["label"], tf.int32)
    if LABEL_MAP in batch:
        batch[LABEL_MAP] = tf.cast(batch[LABEL_MAP][..., 0], tf.int32)
    unreadable = {key: tf.boolean_mask(column, counts & ~readable) for key, column in ((ID, names), (FAULT, faults))}
    return {**batch, VALID: counts & readable, INDEX: seeds[:, 1], **unreadable}


def _with_checked_labels(program: Program, num_classes: int) -> Program:
    """The program, whose label maps must hold classes or `IGNORE`."""

    def example(features: Features, seed: tf.Tensor) -> Features:
        features = program.example(features, seed)
        if LABEL_MAP not in features:
            return features
        labels = features[LABEL_MAP]
        largest = tf.cast(tf.reduce_max(tf.where(labels == IGNORE, tf.zeros_like(labels), labels)), tf.int32)
        message = describe_wrong_label(features[ID], largest, num_classes)
        with tf.control_dependencies([require(largest < num_classes, *message)]):
            return {**features, LABEL_MAP: tf.identity(labels)}

    return program._replace(example=example)


def describe_wrong_label(name: Any, label: Any, num_classes: int) -> tuple[Any, ...]:
    """The parts of the message for a label that is no class."""
    expected = (
        f", expected 0 to {num_classes - 1}, or {IGNORE} for pixels that do not count: set model.num_classes, or "
    )
    advice = "put an op behind decode that changes labels, such as map_labels({7: 0}) or, for ADE20K, reduce_zero_label"
    return "the label map of ", name, " holds the label ", label, expected + advice


def _repeat_readable(batch: Features, readable: tf.Tensor) -> Features:
    """Replaces each unreadable row by the readable row before it, or else by the first one; black if there is none."""
    good = tf.cond(tf.reduce_any(readable), lambda: tf.where(readable)[:, 0], lambda: tf.zeros([1], tf.int64))
    row = tf.range(tf.size(readable, tf.int64))
    rows = tf.gather(good, tf.maximum(tf.searchsorted(good, row, side="right") - 1, 0))
    return {key: tf.gather(value, rows) for key, value in batch.items()}


def _options(source: Source) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # The input has threads of its own, and runs one image on one thread: JAX's host threads are left alone.
    options.threading.private_threadpool_size = (os.cpu_count() or 1) + source.waiting_threads
    options.threading.max_intra_op_parallelism = 1
    # The graph is as it should run, and says how parallel: for small images, TensorFlow's tuner, which measures every
    # operation, and its rewriting of the graph took a third of the input's CPU time.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return options
