"""Runs a task's `measure` over an evaluation set: the same in training and in `evaluate`."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from beit_jax.errors import UserError
from beit_jax.tasks.task import Task
from beit_jax.training.sharding import replicated, to_devices
from beit_jax.typing import HostBatch, Params


class Evaluator:
    """Compiles a task's `measure` and `pictures` once."""

    def __init__(self, task: Task, mesh: Mesh):
        everywhere = replicated(mesh)  # every process reads the sums
        self._task, self._mesh = task, mesh
        self._measure = jax.jit(task.measure, out_shardings=everywhere)
        self._pictures = jax.jit(task.pictures, out_shardings=everywhere)

    def run(self, params: Params, frozen: Params, batches: Iterable[HostBatch]) -> dict[str, float]:
        """Named numbers over all valid examples of the batches; sums are added in float64 on the host.

        Raises:
          UserError: the set is empty, or its first batch has values that cannot be measured, such as unknown labels.
        """
        total, pending = None, None
        for batch in batches:
            if pending is None:
                self._task.check_batch(batch)
            # The devices compute this batch while the sums of the one before it are fetched.
            sums = self._measure(params, frozen, to_devices(self._mesh, batch))
            if pending is not None:
                total = _add(total, pending)
            pending = sums
        if pending is None:
            raise UserError("the evaluation set is empty; expected at least one example in data.eval_split")
        return self._task.summarize(_add(total, pending))

    def pictures(
        self, params: Params, frozen: Params, batches: Iterable[HostBatch], count: int = 12
    ) -> dict[str, np.ndarray]:
        """The task's pictures of the first examples, `{name: [count, h, w, 3]}`; empty where the task has none."""
        if type(self._task).pictures is Task.pictures:
            return {}  # without reading a batch
        shards = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        examples = -(-count // shards) * shards // jax.process_count()
        batch = {name: values[:examples] for name, values in next(iter(batches)).items()}
        pictures = self._pictures(params, frozen, to_devices(self._mesh, batch))
        return {name: np.asarray(images)[:count] for name, images in pictures.items()}


def _add(total: Any, device_sums: Any) -> Any:
    sums = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.device_get(device_sums))
    return sums if total is None else jax.tree.map(np.add, total, sums)
