"""A split without class folders beside one that has them, as many competitions give their test images."""

import pytest

from beit_jax.data.records import shard_plan
from beit_jax.data.sources.folder import list_folder
from beit_jax.data.sources.folder_checks import check_classes
from beit_jax.errors import UserError


@pytest.fixture
def root(tmp_path):
    for name in ("train/cat/1.png", "train/cat/2.png", "train/dog/3.png", "test/4.png", "test/5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"image")
    return str(tmp_path)


def test_its_images_have_no_labels(root):
    listing = list_folder(root, "test")
    assert (listing.labels, listing.classes) == ([-1, -1], ["cat", "dog"])
    assert shard_plan.list_images(root).splits["test"].labels == [-1, -1]


def test_tasks_that_score_classes_refuse_it(root):
    check_classes(root, "train")
    message = r"/test has no class folders, as .*/train has, and so no labels; move its images into class folders"
    with pytest.raises(UserError, match=message):
        check_classes(root, "test[:50%]")
