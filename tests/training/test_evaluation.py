"""Metrics do not depend on the batch size or the number of devices."""

import jax
import numpy as np
import pytest
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.data.in_memory import Examples
from beit_jax.errors import UserError
from beit_jax.runtime.run_once import run_once
from beit_jax.training import sharding
from beit_jax.training.evaluation import Evaluator


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 43).astype(np.int32)
    # Brightness says something of the class, so that the accuracy is neither 0 nor 1.
    return {
        "image": rng.uniform(0, 1, (43, 16, 16, 3)).astype(np.float32) + labels[:, None, None, None] / 5,
        "label": labels,
    }


@pytest.mark.parametrize("name", ["classify", "probe"])
def test_one_and_eight_devices_and_any_batch(images, name):
    task, results = tasks.create_task(tiny(name)), []
    params = run_once(task.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(1), leaf.shape), params)
    frozen = {part: run_once(made.init, jax.random.key(1)) for part, made in task.frozen_parts.items()}
    one_device = sharding.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    eight_devices = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
    for mesh, batch_size in ((one_device, 43), (eight_devices, 16)):
        with jax.set_mesh(mesh):
            results.append(Evaluator(task, mesh).run(params, frozen, Examples(images, batch_size)).numbers)
    alone, together = results
    assert alone["images"] == 43
    assert together == pytest.approx(alone, rel=1e-5)
    assert [together[name] for name in ("images", "top1", "top5")] == [
        alone[name] for name in ("images", "top1", "top5")
    ]
    assert 0 < alone["top5"] < 1


@pytest.mark.parametrize("name", ["classify", "probe"])
def test_labels_of_no_class(images, name):
    task, mesh = tasks.create_task(tiny(name)), sharding.make_mesh(dict(data=8, fsdp=1, tensor=1))
    hidden = images | {"label": np.full(43, -1, np.int32)}  # as in test splits whose labels are kept secret
    with jax.set_mesh(mesh), pytest.raises(UserError, match="found the label -1, expected 0 to 9"):
        Evaluator(task, mesh).run({}, {}, Examples(hidden, 16))


def test_pictures_show_no_image_twice(images):
    """The first example fills up a batch; its copies are not shown."""
    task, mesh = tasks.create_task(tiny("tokenizer")), sharding.make_mesh(dict(data=8, fsdp=1, tensor=1))
    params, evaluator = run_once(task.init, jax.random.key(0)), Evaluator(task, mesh)
    for held_out, shown in ((6, 6), (43, 12)):
        with jax.set_mesh(mesh):
            pictures = evaluator.pictures(params, {}, Examples({"image": images["image"][:held_out] / 3}, 16))
        assert pictures and {len(pixels) for pixels in pictures.values()} == {shown}
        assert len(np.unique(pictures["original"], axis=0)) == shown
