"""Batches of examples that are held in memory, such as features, addressed by the step like those of `pipeline`."""

from collections.abc import Iterator, Mapping

import numpy as np

from beit_jax.errors import UserError


class Examples:
    """Columns of the same length n over all processes.

    Args:
      columns: arrays `[n, ...]` by name, the same on every process.
      batch_size: over all processes, whose number divides it.
      process_index: which process this is.
      process_count: of how many.
    """

    def __init__(
        self, columns: Mapping[str, np.ndarray], batch_size: int, process_index: int = 0, process_count: int = 1
    ):
        self._columns, self._batch_size = columns, batch_size
        rows = batch_size // process_count
        self._own = slice(process_index * rows, (process_index + 1) * rows)  # of every batch
        self.num_examples = len(next(iter(columns.values())))

    def train(self, seed: int, step: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches `[b, ...]` without end from a step on; every epoch is a new order, cut to whole batches."""
        steps_per_epoch = self.num_examples // self._batch_size
        if not steps_per_epoch:
            raise UserError(f"{self.num_examples} examples do not fill one batch of {self._batch_size}; lower it")
        while True:
            epoch, place = divmod(step, steps_per_epoch)
            order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(self.num_examples)
            for start in range(place * self._batch_size, steps_per_epoch * self._batch_size, self._batch_size):
                yield self._rows(order[start : start + self._batch_size])
                step += 1

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Every example once, with `valid` and `index`; the last batch is filled up."""
        for start in range(0, self.num_examples, self._batch_size):
            places = np.arange(start, start + self._batch_size)
            valid = places < self.num_examples
            yield self._rows(np.where(valid, places, 0)) | {"valid": valid[self._own], "index": places[self._own]}

    def _rows(self, places: np.ndarray) -> dict[str, np.ndarray]:
        return {name: column[places[self._own]] for name, column in self._columns.items()}
