"""What the training loop and evaluations iterate over: batches of NumPy arrays. Unreadable images are counted here."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from beit_jax.data.decoding.assertions import readable_errors
from beit_jax.data.decoding.unreadable import UnreadableImages
from beit_jax.data.features import FAULT, ID, INDEX, ROW, VALID
from beit_jax.data.records.stored_tokens import TokenReader
from beit_jax.data.sources.source import Source
from beit_jax.runtime.heap import trim_heap

KEPT_BYTES = 2**26  # of an evaluation set that is kept: to start its input anew takes a second, whatever its size


class TrainStream:
    """Endless iterator over the training batches of one process, from a given step on.

    The batch of a step depends on the seed and the step, but not on the number of processes (see
    `source.count_streams`). An epoch is the split in a new order, cut to complete batches. With `repeats` (repeated
    augmentation, arXiv 1901.09335) an epoch has as many examples, but fewer images: each image is used `repeats` times.
    """

    def __init__(
        self,
        source: Source,
        dataset: tf.data.Dataset,
        steps_per_epoch: int,
        unreadable: UnreadableImages,
        tokens: TokenReader | None = None,
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
    """The padded batches of one process, over which one can iterate again and again; a small set is read only once.

    `valid`, bool `[b]`, tells the examples that count from those that only fill a batch.
    """

    def __init__(self, source: Source, dataset: tf.data.Dataset, num_batches: int, unreadable: UnreadableImages):
        self.num_examples, self.num_classes = source.num_examples, source.num_classes
        self._dataset, self._num_batches, self._unreadable = dataset, num_batches, unreadable
        self._kept: list[dict[str, np.ndarray]] | None = None  # all batches, once they are read, if they are small

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        if self._kept is not None:
            yield from map(dict, self._kept)
            return
        kept, size = [], 0
        for batch in self._read():
            size += sum(values.nbytes for values in batch.values())
            if size <= KEPT_BYTES:
                kept.append(dict(batch))
            else:
                kept.clear()
            yield batch
        self._kept = kept or None

    def _read(self) -> Iterator[dict[str, np.ndarray]]:
        self._unreadable.restart()
        batches = self._dataset.as_numpy_iterator()
        for _ in range(self._num_batches):
            with readable_errors():
                batch = next(batches)
            del batch[ROW]
            names, faults = batch.pop(ID).tolist(), batch.pop(FAULT).tolist()
            self._unreadable.add(int(batch[VALID].sum()) + len(names), names, faults)
            yield batch
        self._unreadable.check(is_sample=False)
