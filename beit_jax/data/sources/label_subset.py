"""Which labelled examples a run may train on: a number or a fraction of each class, chosen at random."""

import numpy as np

from beit_jax.data.sources.label_choice import parse_labels
from beit_jax.errors import UserError


def count_per_class(labels: np.ndarray, num_classes: int, choice: str) -> list[int]:
    """How many examples of each class are chosen, whatever the seed.

    Args:
      labels: int64 `[n]`, of every example of the split.
      num_classes: number of classes.
      choice: text of `data.labels`, see `parse_labels`; fractions of a class are rounded.

    Raises:
      UserError: a class has too few examples, or none of its examples is chosen.
    """
    per_class, fraction = parse_labels(choice)
    sizes = np.bincount(labels[labels >= 0], minlength=num_classes).tolist()  # -1: the label is not known
    for label, size in enumerate(sizes):
        if size < per_class:
            raise UserError(
                f"found {size} examples of class {label}, expected at least {per_class} for data.labels={choice!r}; "
                "lower the number or take a larger split"
            )
        if not per_class and not round(fraction * size):
            raise UserError(f"data.labels={choice!r} leaves none of the {size} examples of class {label}; raise it")
    return [per_class or round(fraction * size) for size in sizes]


def choose_examples(labels: np.ndarray, num_classes: int, choice: str, seed: int) -> np.ndarray:
    """Positions in the split of the chosen examples, int64 `[m]`, class by class.

    A smaller choice is part of a larger choice of the same seed. See `count_per_class` for the arguments and errors.
    """
    counts = count_per_class(labels, num_classes, choice)
    rank = np.random.RandomState(seed).permutation(len(labels))  # NumPy never changes the numbers of RandomState
    chosen = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label)
        chosen.append(members[np.argsort(rank[members])][:count][::-1])
    return np.concatenate(chosen)
