"""Features of every image of a set, computed once, and where they go on the devices."""

import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from beit_jax.tasks.task import Task
from beit_jax.training.sharding import batch_sharding, replicated, to_devices
from beit_jax.typing import Batch, HostBatch, Params

PROGRESS_EVERY_S = 10.0


class Features(NamedTuple):
    """Features float32 `[n, l, f]` of n images in l layers, or `[n, f]` in one, and their classes int32 `[n]`.

    A class is -1 where it is not known.
    """

    features: np.ndarray
    labels: np.ndarray

    def labelled(self) -> "Features":
        """Those whose class is known."""
        known = self.labels >= 0
        return self if known.all() else Features(self.features[known], self.labels[known])

    def layer(self, index: int) -> "Features":
        """Those of one layer."""
        return Features(self.features[:, index], self.labels)


class Extractor:
    """Compiles a task's `embed` once."""

    def __init__(self, task: Task, mesh: Mesh):
        def embed(params: Params, frozen: Params, batch: Batch) -> tuple[jax.Array, ...]:
            return task.embed(params, frozen, batch["image"]), batch["label"], batch["valid"], batch["index"]

        self._mesh = mesh
        self._embed = jax.jit(embed, out_shardings=replicated(mesh))  # every process reads the features

    def __call__(self, params: Params, frozen: Params, batches: Iterable[HostBatch], images: int) -> Features:
        """Features and labels of all valid examples.

        Args:
          params: of the task.
          frozen: of the task.
          batches: `image` `[b, h, w, 3]`, `valid` and `index` `[b]`, and `label` where there are classes; each example
            is valid once.
          images: how many there are.

        Returns:
          Of all images, in the order of indices; fewer where some could not be read.
        """
        features, labels, done = None, np.empty(images, np.int32), np.zeros(images, bool)
        reported, pending = time.monotonic(), None
        for batch in batches:
            inputs = {name: batch[name] for name in ("image", "valid")}
            inputs["index"] = np.asarray(batch["index"], np.int32)
            inputs["label"] = batch["label"] if "label" in batch else np.full(len(batch["valid"]), -1, np.int32)
            # The devices compute this batch while the features of the one before it are fetched.
            outputs = self._embed(params, frozen, to_devices(self._mesh, inputs))
            if pending is not None:
                features = _store(pending, features, labels, done)
            pending = outputs
            if time.monotonic() - reported > PROGRESS_EVERY_S and jax.process_index() == 0:
                reported = time.monotonic()
                # Standard output is for the results of commands.
                print(
                    f"features of {done.sum():,} of {images:,} images ({done.mean():.0%})", file=sys.stderr, flush=True
                )
        features = _store(pending, features, labels, done)
        return Features(features, labels) if done.all() else Features(features[done], labels[done])


def _store(
    outputs: tuple[jax.Array, ...], features: np.ndarray | None, labels: np.ndarray, done: np.ndarray
) -> np.ndarray:
    """Writes a batch of `Extractor` to its place, and returns the features, which the first batch makes."""
    embedded, classes, valid, index = jax.device_get(outputs)
    if features is None:
        features = np.empty((len(done), *embedded.shape[1:]), np.float32)
    index = index[valid]
    features[index], labels[index], done[index] = embedded[valid], classes[valid], True
    return features


def put_rows(mesh: Mesh, *arrays: np.ndarray) -> list[jax.Array]:
    """Arrays `[n, ...]`, the same on every process, with their rows split over the devices; zeros make them even."""
    padding = -len(arrays[0]) % mesh.size
    padded = (np.pad(array, ((0, padding), *[(0, 0)] * (array.ndim - 1))) for array in arrays)
    return [_put(array, batch_sharding(mesh)) for array in padded]


def put_everywhere(mesh: Mesh, *arrays: np.ndarray) -> list[jax.Array]:
    """Arrays, the same on every process, on every device."""
    return [_put(array, replicated(mesh)) for array in arrays]


def _put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    # `device_put` would send the array to all other processes, to compare it with theirs.
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
