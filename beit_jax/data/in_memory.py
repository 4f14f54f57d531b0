"""Batches of examples in memory, such as features. As in `pipeline`, the step decides which examples a batch has."""

from collections.abc import Iterator, Mapping

import numpy as np

from beit_jax.errors import UserError


class Examples:
    """Arrays of the same length n, of which each process gets its part of every batch.

    Args:
      columns: arrays `[n, ...]` by name, the same on every process.
      batch_size: examples of a batch over all processes, a multiple of their number.
      process_index: which process this is.
      process_count: number of processes.
    """

    def __init__(
        self, columns: Mapping[str, np.ndarray], batch_size: int, process_index: int = 0, process_count: int = 1
    ):
        self._columns, self._batch_size = columns, batch_size
        local_batch = batch_size // process_count
        self._local_rows = slice(process_index * local_batch, (process_index + 1) * local_batch)  # of every batch
        self.num_examples = len(next(iter(columns.values())))

    def train(self, seed: int, step: int) -> Iterator[dict[str, np.ndarray]]:
        """Endless batches `[b, ...]` from a step on. Every epoch has a new order, cut to complete batches."""
        steps_per_epoch = self.num_examples // self._batch_size
        if not steps_per_epoch:
            raise UserError(f"{self.num_examples} examples do not fill one batch of {self._batch_size}; lower it")
        while True:
            epoch, step_of_epoch = divmod(step, steps_per_epoch)
            order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(self.num_examples)
            for start in range(step_of_epoch * self._batch_size, steps_per_epoch * self._batch_size, self._batch_size):
                yield self._batch(order[start : start + self._batch_size])
                step += 1

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Every example once, with `valid` and `index`. The first example fills up the last batch."""
        for start in range(0, self.num_examples, self._batch_size):
            index = np.arange(start, start + self._batch_size)
            valid = index < self.num_examples
            local = {"valid": valid[self._local_rows], "index": index[self._local_rows]}
            yield self._batch(np.where(valid, index, 0)) | local

    def _batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {name: column[indices[self._local_rows]] for name, column in self._columns.items()}
