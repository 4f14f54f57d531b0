"""Runs a task's `measure` over an evaluation set: the same in training and in `evaluate`."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from beit_jax.errors import UserError
from beit_jax.tasks.report import Table
from beit_jax.tasks.task import Task
from beit_jax.training.sharding import replicated, to_devices
from beit_jax.typing import Batch, HostBatch, Params


class Evaluation(NamedTuple):
    """What an evaluation gives: numbers by name, and the task's tables (`Task.tables`)."""

    numbers: dict[str, float]
    tables: dict[str, Table]


class Example(NamedTuple):
    """An image `[h, w, 3]` as the network sees it, its class, the most likely class, and the probability of that."""

    image: np.ndarray
    label: int
    predicted: int
    probability: float


class Evaluator:
    """Compiles a task's `measure`, `pictures` and `probabilities` once."""

    def __init__(self, task: Task, mesh: Mesh):
        everywhere = replicated(mesh)  # every process reads the sums
        self._task, self._mesh = task, mesh
        self._measure = jax.jit(task.measure, out_shardings=everywhere)
        self._pictures = jax.jit(task.pictures, out_shardings=everywhere)
        self._predict = jax.jit(self._most_likely, out_shardings=everywhere)

    def run(self, params: Params, frozen: Params, batches: Iterable[HostBatch]) -> Evaluation:
        """Numbers and tables over all valid examples of the batches; sums are added in float64 on the host.

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
        total = _add(total, pending)
        return Evaluation(self._task.summarize(total), self._task.tables(total))

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

    def _most_likely(self, params: Params, frozen: Params, batch: Batch) -> tuple[jax.Array, ...]:
        probabilities = self._task.probabilities(params, frozen, batch["image"])
        return jnp.argmax(probabilities, axis=-1), jnp.max(probabilities, axis=-1), batch

    def examples(
        self, params: Params, frozen: Params, batches: Iterable[HostBatch], count: int = 12
    ) -> tuple[list[Example], list[Example]]:
        """The first `count` examples that the task classifies rightly, and the first that it does not."""
        found = {True: [], False: []}
        for batch in batches:
            inputs = {name: batch[name] for name in ("image", "label", "valid")}
            outputs = jax.device_get(self._predict(params, frozen, to_devices(self._mesh, inputs)))
            for row in np.flatnonzero(outputs[2]["valid"]):
                label, predicted = int(outputs[2]["label"][row]), int(outputs[0][row])
                some = found[label == predicted]
                if len(some) < count:
                    some.append(Example(outputs[2]["image"][row], label, predicted, float(outputs[1][row])))
            if min(map(len, found.values())) == count:
                break
        return found[True], found[False]


def _add(total: Any, device_sums: Any) -> Any:
    sums = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.device_get(device_sums))
    return sums if total is None else jax.tree.map(np.add, total, sums)
