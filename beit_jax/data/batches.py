"""What the loop iterates over: batches as NumPy arrays, with an account of images that could not be read."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from beit_jax.data.decoding.assertions import readable_errors
from beit_jax.data.decoding.decode import FAULT
from beit_jax.data.decoding.unreadable import Unreadable
from beit_jax.data.records.stored_tokens import Reader
from beit_jax.data.sources.source import ID, Source
from beit_jax.runtime.heap import trim_heap

VALID = "valid"
INDEX = "index"  # in the file order of an evaluation's examples
ROW = "_row"  # of the batch that an image is from: another one's where it could not be read


class TrainStream:
    """Iterator without end over the batches of one process, from a given step on.

    The batch of a step depends on the seed and the step, and not on the number of processes (see `sources.streams`). An
    epoch is the split in a new order, cut to whole batches; with `repeats` (repeated augmentation, arXiv 1901.09335) as
    many views of fewer images.
    """

    def __init__(
        self,
        source: Source,
        dataset: tf.data.Dataset,
        steps_per_epoch: int,
        unreadable: Unreadable,
        tokens: Reader | None = None,
    ):
        self.num_examples, self.num_classes = source.num_examples, source.num_classes
        self.steps_per_epoch = steps_per_epoch
        self._unreadable, self._tokens = unreadable, tokens
        self._batches = trim_heap(dataset.as_numpy_iterator())

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        with readable_errors():
            batch = next(self._batches)
        del batch[INDEX]
        self._unreadable.add(len(batch.pop(VALID)), batch.pop(ID).tolist(), batch.pop(FAULT).tolist())
        self._unreadable.check()
        rows = batch.pop(ROW)
        if self._tokens:
            batch["tokens"] = self._tokens(rows, batch["image"])
        return batch


class EvalSet:
    """Iterable, again and again, over the padded batches of one process; `valid` bool `[b]` marks rows that count."""

    def __init__(self, source: Source, dataset: tf.data.Dataset, num_batches: int, unreadable: Unreadable):
        self.num_examples, self.num_classes = source.num_examples, source.num_classes
        self._dataset, self._num_batches, self._unreadable = dataset, num_batches, unreadable

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        self._unreadable.restart()
        batches = self._dataset.as_numpy_iterator()
        for _ in range(self._num_batches):
            with readable_errors():
                batch = next(batches)
            del batch[ROW]
            names, faults = batch.pop(ID).tolist(), batch.pop(FAULT).tolist()
            self._unreadable.add(int(batch[VALID].sum()) + len(names), names, faults)
            yield batch
        self._unreadable.check(whole=True)
