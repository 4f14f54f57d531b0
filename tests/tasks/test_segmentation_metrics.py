import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from beit_jax.errors import UserError
from beit_jax.tasks.segmentation_metrics import confusion_matrix, iou_and_accuracy, summarize_confusion
from beit_jax.training import sharding

count = jax.jit(confusion_matrix, static_argnums=2)


def maps(classes=7, shape=(8, 12, 9), absent=()):
    """Predictions right about half of the time, labels with ignored pixels, without the classes `absent`."""
    rng = np.random.default_rng(classes)
    present = np.setdiff1d(np.arange(classes), absent)
    label = rng.choice(present, shape).astype(np.int32)
    predicted = np.where(rng.random(shape) < 0.5, label, rng.choice(present, shape)).astype(np.int32)
    label[rng.random(shape) < 0.2] = 255
    return predicted, label


def reference(predicted, label, classes):
    """Class by class, as defined: intersection over union, fraction of a class's pixels, fraction of all pixels."""
    valid = label != 255
    ious, accuracies = [], []
    for k in range(classes):
        mine, true = (predicted == k) & valid, label == k
        if (mine | true).any():
            ious.append((mine & true).sum() / (mine | true).sum())
        if true.any():
            accuracies.append((mine & true).sum() / true.sum())
    right = (predicted == label)[valid].mean()
    numbers = {"miou": np.mean(ious), "mean_accuracy": np.mean(accuracies), "pixel_accuracy": right}
    return numbers | {"classes": len(ious)}


@pytest.mark.parametrize("absent", [(), (0, 4)])
def test_metrics_are_those_of_plain_numpy(absent):
    predicted, label = maps(absent=absent)
    found = summarize_confusion(count(predicted, label, 7))
    assert found == pytest.approx(reference(predicted, label, 7))
    # A class that is only predicted has an IoU of 0 and no accuracy.
    predicted[label == 255] = 0
    predicted[0, 0, 0], label[0, 0, 0] = 4, 1
    found = summarize_confusion(count(predicted, label, 7))
    assert found == pytest.approx(reference(predicted, label, 7))


def test_rows_are_labels():
    counts = count(jnp.array([0, 1, 1, 2, 2]), jnp.array([0, 0, 1, 1, 255]), 3)
    assert counts.dtype == jnp.int32 and counts.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    iou, accuracy = iou_and_accuracy(np.asarray(counts, np.float64))
    np.testing.assert_array_equal(iou, [1 / 2, 1 / 3, 0])
    np.testing.assert_array_equal(accuracy, [1 / 2, 1 / 2, np.nan])


def test_counts_beyond_float32():
    """2^24 + 3 pixels, where adding 1.0 to a float32 has long stopped to change it."""
    size = 2**24 + 3
    counts = count(jnp.zeros(size, jnp.int32), jnp.zeros(size, jnp.int32), 2)
    assert counts.tolist() == [[size, 0], [0, 0]]


def test_labels_outside_the_classes_are_not_counted():
    assert int(count(jnp.array([0, 0, 255, 1]), jnp.array([2, -1, 0, 1]), 2).sum()) == 1


def test_eight_devices_count_as_one():
    predicted, label = maps()
    mesh = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        split = (jax.device_put(x, rows) for x in (predicted, label))
        found = jax.jit(confusion_matrix, static_argnums=2, out_shardings=sharding.replicated(mesh))(*split, 7)
    np.testing.assert_array_equal(found, count(predicted, label, 7))


def test_nothing_to_measure_is_reported():
    with pytest.raises(UserError, match="no labelled pixel"):
        summarize_confusion(np.zeros((3, 3)))
