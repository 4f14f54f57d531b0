"""Images that two splits have in common: of folders, of label maps, of records."""

import os
import shutil

import pytest

from beit_jax.data.common_images import count_common


@pytest.mark.parametrize(
    ("split", "other", "common"),
    [
        ("train", "train", 60),
        ("train[:90%]", "train[90%:]", 0),
        ("train", "train[90%:]", 6),
        ("train[:50]", "train[-20:]", 10),
        ("train[10:20]", "train[20:]", 0),
    ],
)
def test_slices_of_a_folder(class_folder, data_config, split, other, common):
    config = data_config(source=f"folder:{class_folder}")
    assert count_common(config, split, other) == count_common(config, other, split) == common


@pytest.mark.parametrize(
    ("split", "other", "common"),
    [
        ("train", "test", 0),
        ("train", "train", 1438),
        ("train[:90%]", "train[90%:]", 0),
        ("train[:50%]", "train[40%:]", 144),
        ("train+test", "test[:10]", 10),
        ("train[250:310]", "train[300:]", 10),
    ],
)
def test_slices_of_records(sharded_dir, data_config, split, other, common):
    assert count_common(data_config(data_dir=sharded_dir), split, other) == common


def test_a_folder_that_is_reached_twice(class_folder, tmp_path, data_config):
    """By links of folders, and of some files."""
    root = tmp_path / "images"
    shutil.copytree(class_folder, root / "train")
    (root / "validation").symlink_to(root / "train")
    config = data_config(source=f"folder:{root}")
    assert count_common(config, "train", "validation") == 60
    (root / "validation").unlink()
    shutil.copytree(class_folder, root / "validation")
    assert count_common(config, "train", "validation") == 0
    for name in ("01.jpg", "03.jpg"):
        (root / "validation" / "ant" / name).unlink()
        os.symlink(root / "train" / "ant" / name, root / "validation" / "ant" / name)
    assert count_common(config, "train", "validation") == 2
