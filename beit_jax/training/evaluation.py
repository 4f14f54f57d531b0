"""Runs a task's `measure` over an evaluation set: the same in training and in `evaluate`."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from beit_jax.errors import UserError
from beit_jax.tasks.report import Table
from beit_jax.tasks.shown_bands import to_rgb
from beit_jax.tasks.task import Task, spec
from beit_jax.training.micro_batches import sum_over_micro_batches
from beit_jax.training.sharding import batch_sharding, batch_shards, replicated, to_devices
from beit_jax.typing import Batch, HostBatch, Params

FOR_EVERY_TASK = {"valid": "bool", "index": "int32"}  # of each example, beside what `Task.eval_spec` names


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
        # Where features are computed once, the examples of an evaluation are those of training.
        self._spec = task.train_spec if task.caches_features else task.eval_spec
        self._names = {*self._spec(1), *FOR_EVERY_TASK}
        self._jitted = jax.jit(self._sums, out_shardings=everywhere)
        self._measure = self._jitted
        self._pictures = jax.jit(self._pictures_and_valid, out_shardings=everywhere)
        self._predict = jax.jit(self._most_likely, out_shardings=everywhere)

    def _sums(self, params: Params, frozen: Params, batch: Batch) -> Any:
        """`Task.measure` of a batch, in as many micro-batches as a training step has, or as its size allows."""
        examples = len(batch["valid"]) // batch_shards(self._mesh)
        count = math.gcd(self._task.config.optimizer.accumulate, examples)
        if count == 1:
            return self._task.measure(params, frozen, batch)
        return sum_over_micro_batches(lambda part, _: self._task.measure(params, frozen, part), batch, count)

    def trace(self, params: Params, frozen: Params, batch_size: int) -> jax.stages.Traced:
        """The evaluation of a batch, traced from the shapes of parameters: needs neither data nor memory."""
        entries = self._spec(batch_size) | {name: spec(dtype, batch_size) for name, dtype in FOR_EVERY_TASK.items()}
        examples = batch_sharding(self._mesh)
        batch = {
            name: jax.ShapeDtypeStruct(entry.shape, entry.dtype, sharding=examples) for name, entry in entries.items()
        }
        with jax.set_mesh(self._mesh):
            return self._jitted.trace(params, frozen, batch)

    def use(self, compiled: jax.stages.Compiled) -> None:
        """Evaluates with the compiled program of `trace`."""
        self._measure = compiled

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
            inputs = {name: values for name, values in batch.items() if name in self._names}
            sums = self._measure(params, frozen, to_devices(self._mesh, inputs))
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
        """The task's pictures of the first examples, `{name: [n, h, w, 3]}`; empty where the task has none.

        n is `count`, or less where the first batch holds fewer examples: those that only fill it up are not shown.
        """
        if type(self._task).pictures is Task.pictures:
            return {}  # without reading a batch
        shards = batch_shards(self._mesh)
        examples = -(-count // shards) * shards // jax.process_count()
        batch = {name: values[:examples] for name, values in next(iter(batches)).items()}
        pictures, valid = jax.device_get(self._pictures(params, frozen, to_devices(self._mesh, batch)))
        if not valid.any():
            return {}
        bands, shown = self._task.config.data.bands, {name: some[valid][:count] for name, some in pictures.items()}
        alike = {
            name: [other for other in shown.values() if other.shape[-1] == shown[name].shape[-1]] for name in shown
        }
        return {name: to_rgb(images, bands, alike[name]) for name, images in shown.items()}

    def _pictures_and_valid(
        self, params: Params, frozen: Params, batch: Batch
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        return self._task.pictures(params, frozen, batch), batch["valid"]

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
