"""An evaluation set gives the same batches in every pass; a small one is read only once."""

import numpy as np
import pytest
from image_zoo import encode, picture

from beit_jax.data import iterators, pipeline
from beit_jax.errors import UserError


@pytest.fixture
def images(tmp_path):
    """A folder of two classes with ten images in all."""
    for index in range(10):
        path = tmp_path / "images" / ("ant", "bee")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(index), "PNG"))
    return tmp_path / "images"


def open_set(data_config, images):
    return pipeline.make_eval(data_config(source=f"folder:{images}", eval_split="train"), batch_size=4)


def damage(images):
    for path in images.rglob("*.png"):
        path.write_bytes(b"")


def test_a_small_set_is_read_once(data_config, images):
    batches = open_set(data_config, images)
    next(iter(batches))  # a pass that does not reach the end is not taken for all
    first = [{name: np.array(values) for name, values in batch.items()} for batch in batches]
    assert sum(batch["valid"].sum() for batch in first) == 10
    damage(images)
    for batch in batches:
        batch.clear()  # belongs to who reads it
    for batch, expected in zip(batches, first, strict=True):
        assert batch.keys() == expected.keys()
        for name, values in batch.items():
            np.testing.assert_array_equal(values, expected[name])


def test_a_large_set_is_read_in_every_pass(data_config, images, monkeypatch):
    batches = open_set(data_config, images)
    monkeypatch.setattr(iterators, "KEPT_BYTES", sum(value.nbytes for value in next(iter(batches)).values()))
    assert len(list(batches)) == len(list(batches)) == 3
    damage(images)
    with pytest.raises(UserError, match="10 of the 10 images"):
        list(batches)
