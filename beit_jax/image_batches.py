"""Computes with images of a user, batch by batch, on all devices."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from beit_jax.data.sources.image_files import ImageFile
from beit_jax.errors import printable
from beit_jax.runtime.one_ahead import one_ahead
from beit_jax.training import sharding


def divisible(batch_size: int, images: int, mesh: Mesh) -> int:
    """A batch size, of at most all images, raised to a multiple of the number of devices."""
    return -(-min(batch_size, images) // mesh.size) * mesh.size


def compute(
    run: Callable[[jax.Array], Any], mesh: Mesh, ops: str, images: Sequence[ImageFile], batch_size: int, progress: Any
) -> Iterator[tuple[np.ndarray, Any]]:
    """What a function gives for images, in their order; those that cannot be read are named and left out.

    Args:
      run: from images `[b, h, w, c]` to arrays `[b, ...]` on the devices.
      mesh: of the devices.
      ops: that make `image`.
      images: that a user names.
      batch_size: see `divisible`; the last batch is filled up, so that all have one shape.
      progress: the bar.

    Yields:
      For each batch the positions in `images` of the images that were read, and the arrays of these.
    """
    from beit_jax.data import pipeline

    batches = pipeline.make_predict(
        ConfigDict(dict(eval_ops=ops)), images, batch_size=batch_size, unreadable=_Unreadable(progress)
    )

    def started() -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
        for batch in batches:
            with jax.set_mesh(mesh):
                outputs = run(sharding.to_devices(mesh, {"image": batch["image"]})["image"])
            yield batch["valid"], batch["index"], outputs

    for valid, index, outputs in one_ahead(started()):
        yield index[valid], jax.tree.map(lambda values, valid=valid: values[valid], jax.device_get(outputs))


class _Unreadable:
    """Names images that cannot be read on stderr, above the progress bar, however many they are."""

    def __init__(self, progress: Any):
        self._progress = progress

    def restart(self) -> None:
        """See `EvalSet`."""

    def add(self, seen: int, names: list[bytes], faults: list[bytes]) -> None:
        """See `EvalSet`."""
        self._progress.update(seen)
        for name, fault in zip(names, faults, strict=True):
            words = f"cannot read {printable(name.decode('utf-8', 'backslashreplace'))}: {fault.decode()}"
            self._progress.write(words, file=sys.stderr)

    def check(self, is_sample: bool = True) -> None:
        """See `EvalSet`."""
