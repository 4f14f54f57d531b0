"""Labels as users write them, numbers or names, as numbers of classes."""

from collections.abc import Callable, Sequence

import numpy as np

from beit_jax.data.sources.examples import check_labels, count_classes
from beit_jax.data.sources.names import class_name
from beit_jax.errors import UserError

UNKNOWN = "-1"


class WrittenLabels:
    """The labels of a split.

    Args:
      texts: the different ones, in any order.
      index: int `[n]`, which text each image has; -1: none.
      where: the images are, for messages.
      advice: how a label is given.
      name: returns the name of the image at a position.

    Raises:
      UserError: some images have a label, and others have none.
    """

    def __init__(self, texts: Sequence[str], index: np.ndarray, where: str, advice: str, name: Callable[[int], str]):
        missing = np.flatnonzero(index < 0)
        if 0 < len(missing) < len(index):
            raise UserError(
                f"{len(missing):,} of the {len(index):,} images of {where} have no label, the first of them "
                f"{name(int(missing[0]))}; {advice}, -1 where it is not known, or to none"
            )
        self._texts, self._index, self._where = [text.strip() for text in texts], index, where
        self.are_there = len(missing) < len(index)

    @property
    def are_numbers(self) -> bool:
        """Whether all are whole numbers."""
        return all(text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 10 for text in self._texts)

    def class_names(self) -> tuple[str, ...]:
        """The different names, in order."""
        return tuple(sorted({class_name(text) for text in self._texts} - {UNKNOWN}))

    def numbers(self, names: Sequence[str], num_classes: int, by_name: bool = False) -> np.ndarray:
        """int64 `[n]`: the numbers that are written or, by name, the positions of the labels in `names`.

        Raises:
          UserError: a label is no class.
        """
        if not by_name:
            known = np.array([int(text) for text in self._texts], np.int64)
        else:
            position = {UNKNOWN: -1} | {name: number for number, name in enumerate(names)}
            unknown = [text for text in self._texts if class_name(text) not in position]
            if unknown:
                raise UserError(f"{self._where} has the label {unknown[0]!r}, which is no class of those to train on")
            known = np.array([position[class_name(text)] for text in self._texts], np.int64)
        return check_labels(known[self._index], f"the labels of {self._where}", len(self._index), num_classes)


def number_classes(
    labels: WrittenLabels, reference: WrittenLabels, names: Sequence[str] = ()
) -> tuple[np.ndarray | None, int, tuple[str, ...]]:
    """The labels int64 `[n]` of a split, the number of classes, and their names.

    Args:
      labels: of the split.
      reference: of the split to train on, whose labels are the classes.
      names: of the classes, where they are written elsewhere.

    Raises:
      UserError: a label is no class.
    """
    if not labels.are_there:
        return None, 1, ()
    if not names and not reference.are_numbers:
        names = reference.class_names()
    classes = len(names) or count_classes(reference.numbers((), 0) if reference.are_there else None)
    by_name = not (labels.are_numbers and reference.are_numbers)
    return labels.numbers(names, classes, by_name), classes, tuple(names)
