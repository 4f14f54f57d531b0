"""Features of every image of a set, computed once."""

import time
from collections.abc import Iterable

import jax
import numpy as np
from jax.sharding import Mesh

from beit_jax.tasks.task import Task
from beit_jax.training.sharding import replicated, to_devices
from beit_jax.typing import Batch, HostBatch, Params

PROGRESS_EVERY_S = 10.0


class Extractor:
    """Compiles a task's `embed` once."""

    def __init__(self, task: Task, mesh: Mesh):
        def embed(params: Params, frozen: Params, batch: Batch) -> tuple[jax.Array, ...]:
            return task.embed(params, frozen, batch["image"]), batch["label"], batch["valid"], batch["index"]

        self._mesh = mesh
        self._embed = jax.jit(embed, out_shardings=replicated(mesh))  # every process reads the features

    def __call__(
        self, params: Params, frozen: Params, batches: Iterable[HostBatch], images: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features and labels of all valid examples.

        Args:
          params: of the task.
          frozen: of the task.
          batches: `image` `[b, h, w, 3]`, `label`, `valid` and `index` `[b]`; each example is valid once.
          images: how many there are.

        Returns:
          float32 `[images, l, f]` and int32 `[images]` in the order of indices; fewer where some could not be read.
        """
        features, labels, done = None, np.empty(images, np.int32), np.zeros(images, bool)
        reported = time.monotonic()
        for batch in batches:
            inputs = {name: batch[name] for name in ("image", "label", "valid")}
            inputs["index"] = np.asarray(batch["index"], np.int32)
            outputs = self._embed(params, frozen, to_devices(self._mesh, inputs))
            embedded, classes, valid, index = jax.device_get(outputs)
            if features is None:
                features = np.empty((images, *embedded.shape[1:]), np.float32)
            index = index[valid]
            features[index], labels[index], done[index] = embedded[valid], classes[valid], True
            if time.monotonic() - reported > PROGRESS_EVERY_S and jax.process_index() == 0:
                reported = time.monotonic()
                print(f"features of {done.sum():,} of {images:,} images ({done.mean():.0%})", flush=True)
        return (features, labels) if done.all() else (features[done], labels[done])
