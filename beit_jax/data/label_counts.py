"""What the label maps of a split hold, counted before a run trains on them."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from beit_jax.data import preprocessing
from beit_jax.data.batching import describe_wrong_label, plain_graph
from beit_jax.data.decoding.assertions import readable_errors
from beit_jax.data.decoding.decode import decode_label_map, describe_colours, describe_sizes
from beit_jax.data.features import ID
from beit_jax.data.sources.listed_once import kept
from beit_jax.data.sources.open_source import open_source
from beit_jax.data.sources.source import Shard, Source
from beit_jax.errors import UserError
from beit_jax.models.label_maps import IGNORE
from beit_jax.runtime.progress import progress_bar

SAMPLE = 2000  # label maps that tell enough where the number of classes is known; two cores read them in seconds
TOGETHER = 64
QUIET_S = 3.0  # before a progress bar is shown
NAMED = 8  # labels in a message


class LabelCounts(NamedTuple):
    """Of each label of a split, as the ops make it.

    Attributes:
      where: the split, for messages.
      total: label maps of the split.
      maps: how many of them were counted.
      pixels: int64 `[256]`, pixels of each label; of `IGNORE` those that do not count.
      stored: int64 `[256]`, the same for the labels that the files hold.
      examples: of each label, the name of an image whose label map holds it; empty without one.
      largest: pixels along the longest side of a label map.
      largest_name: the image of that label map.
    """

    where: str
    total: int
    maps: int
    pixels: np.ndarray
    stored: np.ndarray
    examples: tuple[str, ...]
    largest: int
    largest_name: str

    @property
    def classes(self) -> np.ndarray:
        """Labels that occur, in order, without `IGNORE`."""
        return np.flatnonzero(self.pixels[:IGNORE])

    @property
    def ignored(self) -> float:
        """Fraction of the pixels that do not count."""
        return float(self.pixels[IGNORE] / max(self.pixels.sum(), 1))


def count_labels(config: Any, split: str, ops: str, limit: int = 0) -> LabelCounts:
    """The labels of a split.

    Args:
      config: the section `data` of a config.
      split: of it.
      ops: of which those that change labels are applied; with numbers for all sizes.
      limit: of label maps; 0: all are counted.

    Raises:
      UserError: the split cannot be read, or a label map holds no labels or has another size than its image.
    """
    table = preprocessing.label_table(ops)
    read = _count_stored(config.source, config.data_dir, split, limit)
    pixels = np.bincount(table, weights=read.stored, minlength=256).astype(np.int64)
    examples = [""] * 256
    for stored, name in enumerate(read.examples):
        examples[table[stored]] = examples[table[stored]] or name
    return read._replace(pixels=pixels, examples=tuple(examples))


@kept
def _count_stored(name: str, data_dir: str, split: str, limit: int) -> LabelCounts:
    """The labels of a split, as the files hold them. Unreadable files are left out: training counts and names them."""
    source, where = open_source(name, data_dir, split, 1), f"'{split}' of {name}"
    total = min(limit or source.num_examples, source.num_examples)
    zero = tf.constant(0, tf.int64)
    raw = source.raw(None, zero, zero, Shard()).take(total)
    counted = raw.map(plain_graph(partial(_count, source)), tf.data.AUTOTUNE).ignore_errors(log_warning=False)
    stored, examples, sides, maps = np.zeros(256, np.int64), [""] * 256, {}, 0
    for names, counts, is_labels, found, size in _with_progress(counted.batch(TOGETHER), total):
        _check_files(names, is_labels, found, size)
        stored += counts.sum(0)
        for label in np.flatnonzero(counts.any(0)):
            examples[label] = examples[label] or _text(names[np.argmax(counts[:, label] > 0)])
        sides |= dict(zip(found.max(1).tolist(), map(_text, names), strict=True))
        maps += len(names)
    if not maps:
        raise UserError(
            f"none of the label maps of {where} can be read; expected PNG files, since the compression of others, such "
            "as JPEG, changes labels"
        )
    largest = max(sides)
    return LabelCounts(where, source.num_examples, maps, stored, stored, tuple(examples), largest, sides[largest])


def _count(source: Source, *element: Any) -> tuple[tf.Tensor, ...]:
    """An image's name, the pixels of each label `[256]`, whether these are labels, sizes of label map and image."""
    features = source.record(element[0] if len(element) == 1 else element)
    labels, is_labels, size = decode_label_map(features)
    counts = tf.math.bincount(tf.cast(tf.reshape(labels, [-1]), tf.int32), minlength=256, maxlength=256)
    return features[ID], tf.cast(counts, tf.int64), is_labels, tf.shape(labels)[:2], size


def _with_progress(batches: tf.data.Dataset, total: int) -> Iterator[tuple[np.ndarray, ...]]:
    """The batches, with a progress bar if they take long."""
    done, start = 0, 0.0
    with contextlib.ExitStack() as at_end, readable_errors():
        bar = None
        for batch in batches.as_numpy_iterator():
            yield batch
            done, start = done + len(batch[0]), start or time.monotonic()
            if bar is None and time.monotonic() - start > QUIET_S:
                bar = at_end.enter_context(progress_bar(total, 0, "label maps"))
            if bar is not None:
                bar.update(done - bar.n)


def _check_files(names: np.ndarray, is_labels: np.ndarray, found: np.ndarray, size: np.ndarray) -> None:
    """Raises the UserError of a batch of label maps that `decode` would raise in training."""
    if not is_labels.all():
        raise UserError("".join(describe_colours(_text(names[np.argmin(is_labels)]))))
    differs = (found != size).any(1)
    if differs.any():
        row = np.argmax(differs)
        raise UserError("".join(map(str, describe_sizes(_text(names[row]), found[row], size[row]))))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def count_classes(config: Any, splits: Sequence[str]) -> int:
    """The number of classes of splits: their largest label, plus 1. All of their label maps are read.

    Args:
      config: the section `data` of a config, with numbers for all sizes in the ops.
      splits: `config.split` and `config.eval_split`, or one of them.

    Raises:
      UserError: see `count_labels`.
    """
    ops = {config.eval_split: config.eval_ops, config.split: config.ops}
    return max(1 + int(count_labels(config, split, ops[split]).classes.max(initial=-1)) for split in splits)


def check_run(config: Any, num_classes: int, label_side: int) -> tuple[LabelCounts, LabelCounts]:
    """The labels of the splits to train and to evaluate on; of many label maps, those of a sample.

    Args:
      config: the section `data` of a config, with numbers for all sizes in the ops.
      num_classes: of the model.
      label_side: of the canvas of label maps in the evaluation.

    Raises:
      UserError: labels that are no classes, fewer than two classes to train on, none to evaluate on, or a label map
        beyond the canvas.
    """
    train = _count_classes(config, config.split, config.ops, 2)
    held_out = _count_classes(config, config.eval_split, config.eval_ops, 1)
    for counts in (train, held_out):
        _check_labels(counts, num_classes)
    if len(train.classes) < 2:
        raise UserError(_describe_too_few(train, "two"))
    if not len(held_out.classes):
        raise UserError(_describe_too_few(held_out, "one"))
    if held_out.largest > label_side:
        raise UserError(
            f"inference.label_side={label_side}, but the label map of {held_out.largest_name} has a side of "
            f"{held_out.largest} pixels; expected at least as many"
        )
    return train, held_out


def _count_classes(config: Any, split: str, ops: str, least: int) -> LabelCounts:
    """The labels of a sample of a split or, where that holds fewer than `least` classes, of all of it."""
    counts = count_labels(config, split, ops, SAMPLE)
    if len(counts.classes) < least and counts.maps < counts.total:
        return count_labels(config, split, ops)
    return counts


def _check_labels(counts: LabelCounts, num_classes: int) -> None:
    wrong = [int(label) for label in counts.classes if label >= num_classes]
    if wrong:
        raise UserError("".join(map(str, describe_wrong_label(counts.examples[wrong[0]], wrong[0], num_classes))))


def _describe_too_few(counts: LabelCounts, least: str) -> str:
    stored = np.flatnonzero(counts.stored)
    found = ", ".join(f"{label} ({counts.stored[label] / counts.stored.sum():.1%})" for label in stored[:NAMED])
    more = ", ..." if len(stored) > NAMED else ""
    advice = "check the ops that change labels, and that these are the right files"
    if counts.pixels[IGNORE] and counts.stored[IGNORE]:
        advice = (
            f"{IGNORE} means that a pixel does not count; if it is a class here, put map_labels({{{IGNORE}: 1}}) "
            "behind decode in data.ops and data.eval_ops, as configs/segment.py:binary does"
        )
    return (
        f"the label maps of {counts.where} hold {len(counts.classes)} class{'' if len(counts.classes) == 1 else 'es'}, "
        f"expected {least} or more; the stored labels are {found}{more}: {advice}"
    )


def describe(counts: LabelCounts, num_classes: int) -> str:
    """A line on what a split holds, for the table before a run."""
    missing = sorted(set(range(num_classes)) - set(counts.classes.tolist()))
    listed = ", ".join(map(str, missing[:NAMED])) + (", ..." if len(missing) > NAMED else "")
    absent = f" ({listed} do not occur)" if missing else ""
    part = f"{counts.maps:,} of {counts.total:,}" if counts.maps < counts.total else f"{counts.maps:,}"
    return (
        f"Label maps of {counts.where}: {part} counted, {len(counts.classes)} of {num_classes} classes{absent}; "
        f"{counts.ignored:.1%} of the pixels do not count ({IGNORE})."
    )
