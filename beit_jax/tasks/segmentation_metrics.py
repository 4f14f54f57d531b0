"""Metrics of semantic segmentation, all from one confusion matrix (mmsegmentation's `mean_iou`)."""

from collections.abc import Sequence

import jax
import numpy as np

from beit_jax.errors import UserError
from beit_jax.models.label_maps import IGNORE
from beit_jax.tasks.confusion import count_pairs
from beit_jax.tasks.report import Table


def confusion_matrix(predicted: jax.Array, label: jax.Array, num_classes: int) -> jax.Array:
    """Counts of pixels by class: int32 `[c, c]`, row the label, column the prediction.

    Counts are integers, since float32 cannot count beyond 2^24. Add those of several batches on the host, in float64.

    Args:
      predicted: int32 `[...]`, classes.
      label: int32 `[...]`, classes, or 255 for pixels without a label. Other labels do not count either.
      num_classes: number of classes c.

    Raises:
      ValueError: more pixels than int32 can count.
    """
    if label.size >= 2**31:
        raise ValueError(f"found {label.size} pixels in one confusion matrix, expected fewer than 2^31")
    counted = (label != IGNORE) & (label >= 0) & (label < num_classes) & (predicted >= 0) & (predicted < num_classes)
    return count_pairs(predicted, label, counted, num_classes)


def iou_and_accuracy(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and accuracy `[c]` of a confusion matrix `[c, c]`.

    A class in neither labels nor predictions has no IoU, a class without labels no accuracy: NaN.
    """
    right, labelled, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    union = labelled + predicted - right
    nothing = np.full(len(counts), np.nan)
    iou = np.divide(right, union, out=nothing.copy(), where=union > 0)
    return iou, np.divide(right, labelled, out=nothing, where=labelled > 0)


def summarize_confusion(counts: np.ndarray) -> dict[str, float]:
    """`miou`, `mean_accuracy`, over the classes that have one, `pixel_accuracy`, of a confusion matrix `[c, c]`.

    `classes` is the number of classes that have an IoU.

    Raises:
      UserError: no pixel has a label.
    """
    counts = np.asarray(counts, np.float64)
    if not counts.sum():
        raise UserError("found no labelled pixel in the evaluation set; expected labels below model.num_classes")
    iou, accuracy = iou_and_accuracy(counts)
    return {
        "miou": float(np.nanmean(iou)),
        "mean_accuracy": float(np.nanmean(accuracy)),
        "pixel_accuracy": float(np.trace(counts) / counts.sum()),
        "classes": float(np.isfinite(iou).sum()),
    }


def class_table(names: Sequence[str], counts: np.ndarray) -> Table:
    """One row for each class: its pixels, IoU and accuracy; empty where it has none."""
    columns = (counts.sum(1), *iou_and_accuracy(counts))
    rows = [
        (name, int(pixels), *("" if np.isnan(value) else float(value) for value in values))
        for name, pixels, *values in zip(names, *columns, strict=True)
    ]
    return Table(("class", "pixels", "iou", "accuracy"), rows)
