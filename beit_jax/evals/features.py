"""Features of every image of a set, computed once."""

import time
from collections.abc import Iterable

import jax
import numpy as np
from jax.sharding import Mesh

from beit_jax.tasks.task import Task
from beit_jax.training.sharding import replicated, to_devices
from beit_jax.typing import HostBatch, Params

SAY_EVERY = 10.0  # seconds


class Extractor:
    """Compiles a task's `embed` once."""

    def __init__(self, task: Task, mesh: Mesh):
        def features(params: Params, frozen: Params, batch: HostBatch) -> tuple[jax.Array, ...]:
            return task.embed(params, frozen, batch["image"]), batch["label"], batch["valid"], batch["index"]

        self._mesh = mesh
        self._features = jax.jit(features, out_shardings=replicated(mesh))  # on every process

    def __call__(
        self, params: Params, frozen: Params, batches: Iterable[HostBatch], images: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features of all valid rows.

        Args:
          params: of the task.
          frozen: of the task.
          batches: `image` `[b, h, w, 3]`, `label`, `valid` and `index` `[b]`, each example valid once.
          images: how many there are.

        Returns:
          float32 `[images, l, f]` and int32 `[images]` in the order of places; fewer where some could not be read.
        """
        found, labels, seen, said = None, np.empty(images, np.int32), np.zeros(images, bool), time.monotonic()
        for batch in batches:
            names = {name: batch[name] for name in ("image", "label", "valid")}
            names["index"] = np.asarray(batch["index"], np.int32)
            outputs = self._features(params, frozen, to_devices(self._mesh, names))
            rows, classes, valid, places = jax.device_get(outputs)
            if found is None:
                found = np.empty((images, *rows.shape[1:]), np.float32)
            own = places[valid]
            found[own], labels[own], seen[own] = rows[valid], classes[valid], True
            if time.monotonic() - said > SAY_EVERY and jax.process_index() == 0:
                said = time.monotonic()
                print(f"features of {seen.sum():,} of {images:,} images ({seen.mean():.0%})", flush=True)
        return (found, labels) if seen.all() else (found[seen], labels[seen])
