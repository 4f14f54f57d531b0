"""Which labelled examples a training run may see: so many of each class, or such a share of each class."""

import numpy as np

from beit_jax.errors import UserError


def choose(labels: np.ndarray, num_classes: int, per_class: int, fraction: float, seed: int) -> np.ndarray:
    """Positions of the chosen examples, class by class.

    A smaller choice of the same seed is part of a larger one.

    Args:
      labels: int64 `[n]`, of every example of the split.
      num_classes: number of classes.
      per_class: examples of each class; 0: `fraction` decides.
      fraction: share of each class, rounded, above 0 and at most 1.
      seed: of the choice.

    Returns:
      int64 `[m]`.

    Raises:
      UserError: a class has too few examples, or is left without any.
    """
    rank = np.random.RandomState(seed).permutation(len(labels))  # its numbers are frozen for good
    chosen = []
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(rank[members])]
        wanted = per_class or round(fraction * len(members))
        if len(members) < per_class:
            raise UserError(
                f"found {len(members)} examples of class {label}, expected labels_per_class={per_class} or more; lower "
                "it or take a larger split"
            )
        if not wanted:
            raise UserError(
                f"label_fraction={fraction:g} leaves none of the {len(members)} examples of class {label}; raise it"
            )
        chosen.append(members[:wanted][::-1])
    return np.concatenate(chosen)
