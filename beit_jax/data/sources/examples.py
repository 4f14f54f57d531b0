"""The images of a split of a user's own data set, before one of them is read. Nothing here needs TensorFlow."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from beit_jax.errors import UserError

REFERENCE = "train"  # the split whose labels say how many classes there are, where it is there
SHOWN = 8  # names of a message


class ArrayImages(NamedTuple):
    """Images of one size in an array `[n, h, w, c]`.

    Attributes:
      name: of the array, with its file, for messages.
      shape: n, h, w, c.
      load: returns the array, whose rows may be read when they are used.
      digest: returns what changes with the pixels.
    """

    name: str
    shape: tuple[int, int, int, int]
    load: Callable[[], np.ndarray]
    digest: Callable[[], Any]


class Examples(NamedTuple):
    """Labelled images.

    Attributes:
      images: of the split, in the order in which they are stored.
      count: how many these are.
      labels: int64 `[count]`, -1 where a label is not known; None: there are no labels.
      num_classes: 1 without labels.
      class_names: of the classes, in the order of their numbers; empty: they have none.
      digest: returns what changes with images or labels; with `repr` for all of it.
      chosen: positions of the images that a slice has, int64 `[n]`, increasing; None: all.
    """

    images: Any
    count: int
    labels: np.ndarray | None
    num_classes: int
    class_names: tuple[str, ...]
    digest: Callable[[], Any]
    chosen: np.ndarray | None = None

    @property
    def positions(self) -> np.ndarray:
        """int64 `[n]`, of the images that a slice has."""
        return np.arange(self.count) if self.chosen is None else self.chosen

    @property
    def chosen_labels(self) -> np.ndarray:
        """int64 `[n]`; 0 without labels."""
        labels = np.zeros(self.count, np.int64) if self.labels is None else self.labels
        return labels if self.chosen is None else labels[self.chosen]


class DataSet(Protocol):
    """A user's own data set: the names of its splits, in order, and what they hold."""

    splits: tuple[str, ...]

    def examples(self, split: str) -> Examples:
        """
        Raises:
          UserError: they cannot be read; one line.
        """


def check_labels(labels: np.ndarray, name: str, count: int, num_classes: int) -> np.ndarray:
    """Labels as int64 `[n]`.

    Args:
      labels: any array.
      name: of them, for messages.
      count: how many images there are.
      num_classes: 0: not known.

    Raises:
      UserError: they are no labels of so many images, or of so many classes.
    """
    if labels.ndim != 1 or len(labels) != count:
        raise UserError(f"{name} has the shape {list(labels.shape)}; expected [{count}], a label for each image")
    if not np.issubdtype(labels.dtype, np.integer):
        missing = np.issubdtype(labels.dtype, np.floating) and int(np.isnan(labels).sum())
        found = f"{missing} labels that are NaN" if missing else f"labels of type {labels.dtype}"
        raise UserError(f"{name} has {found}; expected whole numbers from 0 on, or -1 where a label is not known")
    if count and (labels.min() < -1 or labels.max() >= (num_classes or 2**31)):
        wrong = labels.min() if labels.min() < -1 else labels.max()
        most = f"to {num_classes - 1}" if num_classes else "on"
        raise UserError(f"{name} has the label {wrong}; expected numbers from 0 {most}, or -1 where one is not known")
    return labels.astype(np.int64)


def count_classes(labels: np.ndarray | None) -> int:
    """How many classes there are by the largest label; 1 without labels."""
    return 1 if labels is None or not len(labels) else max(int(labels.max()) + 1, 1)


def listed(names: Any) -> str:
    """Some names, for a message."""
    names = list(names)
    return ", ".join(map(str, names[:SHOWN])) + (f", ... ({len(names)})" if len(names) > SHOWN else "")
