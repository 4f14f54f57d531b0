"""Which class is taken for which: counts on the devices, and the tables that are made of them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from beit_jax.tasks.report import Table

LARGEST = 2000  # classes of a confusion matrix: 16 MB of counts for each batch


def count_pairs(predicted: jax.Array, label: jax.Array, counted: jax.Array, num_classes: int) -> jax.Array:
    """The confusion matrix int32 `[c, c]`, row the label, column the prediction.

    Args:
      predicted: int32 `[...]`, 0 to c - 1.
      label: int32 `[...]`, 0 to c - 1 where it counts.
      counted: bool `[...]`, which of them count.
      num_classes: number of classes c.
    """
    cell = jnp.where(counted, label * num_classes + predicted, num_classes**2)
    counts = jnp.zeros(num_classes**2 + 1, jnp.int32).at[cell.reshape(-1)].add(1)
    return counts[:-1].reshape(num_classes, num_classes)


def count_classes(logits: jax.Array, label: jax.Array, right: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
    """Sums for a task's `measure`, from which `labelled_and_right` and `confusion_table` are made.

    The sum `confusion` is the confusion matrix `[c, c]`; if there are more than `LARGEST` classes, the sum `classes`
    takes its place, int32 `[2, c]`: images of each class, and those of them that are right.

    Args:
      logits: float `[b, c]`.
      label: int32 `[b]`.
      right: bool `[b]`, as `accuracy.ranks` decides, by which ties are wrong: another class is then the prediction.
      valid: bool `[b]`, which examples count.
    """
    classes = logits.shape[-1]
    if classes > LARGEST:
        at = jnp.where(valid, label, classes)
        counts = [jnp.zeros(classes + 1, jnp.int32).at[at].add(one.astype(jnp.int32)) for one in (valid, right)]
        return {"classes": jnp.stack(counts)[:, :-1]}
    is_label = jnp.arange(classes)[None] == label[:, None]
    other = jnp.argmax(jnp.where(is_label, -jnp.inf, logits), axis=-1).astype(jnp.int32)
    return {"confusion": count_pairs(jnp.where(right, label, other), label, valid, classes)}


def labelled_and_right(sums: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Images of each class `[c]`, and those of them that are right `[c]`, from the sums of `count_classes`."""
    if "confusion" in sums:
        return sums["confusion"].sum(axis=1), np.diag(sums["confusion"])
    labelled, right = sums["classes"]
    return labelled, right


def names_of(labels: Sequence[str], classes: int) -> tuple[str, ...]:
    """The names of the classes, or their numbers where they have none."""
    return tuple(labels) or tuple(map(str, range(classes)))


def class_table(names: Sequence[str], labelled: np.ndarray, right: np.ndarray) -> Table:
    """One row for each class: its images, those that are right, and the fraction; empty for a class without images."""
    rows = [
        (name, int(images), int(hits), float(hits / images) if images else "")
        for name, images, hits in zip(names, labelled, right, strict=True)
    ]
    return Table(("class", "images", "right", "accuracy"), rows)


def confusion_table(names: Sequence[str], counts: np.ndarray) -> Table:
    """One row for each true class, one column for each predicted class; counts `[c, c]`."""
    rows = [(name, *map(int, row)) for name, row in zip(names, counts, strict=True)]
    return Table(("true class", *names), rows)
