"""A folder of images in a bucket: the same batches as from a disk."""

import pytest
from same_data import assert_equal, counted, eval_batches, forget, input_config, retries, save_images, train_batches, upload

from beit_jax.data import fingerprint
from beit_jax.data.sources import folder_checks, layout
from beit_jax.data.sources.folder import list_folder
from beit_jax.errors import UserError

CLASSES = [f"{split}/{name}/{index:02}.{kind}" for split, number in (("train", 30), ("val", 7)) for name in ("ant", "bée") for index, kind in zip(range(number), ("jpg", "PNG", "jpeg") * 10)]
ODD = ["train/ant/deeper/a [1]*?#%.png", "train/ant/.hidden.png", "train/__MACOSX/x.png", "train/bée/.thumbs/1.png"]


@pytest.fixture
def patience(monkeypatch):
    monkeypatch.setenv("BEIT_JAX_BUCKET_PATIENCE", "4")


def both(tmp_path, folder, **changes):
    configs = [input_config(source=f"folder:{root}", eval_split="validation", **changes) for root in (tmp_path, folder)]
    upload(tmp_path, folder)
    return configs


def test_class_folders_give_the_same_batches(tmp_path, folder, store):
    save_images(tmp_path, *CLASSES, *ODD)
    (tmp_path / "train/ant/notes.txt").write_text("no image")
    (tmp_path / "train/ant/broken.jpg").write_bytes(b"no image")
    on_disk, in_bucket = both(tmp_path, folder)
    with counted(store) as counts:
        assert_equal(train_batches(in_bucket, 9, start=2), train_batches(on_disk, 9, start=2))
    images = 62
    assert counts.pop("GET list") == 1
    assert sum(counts.values()) <= 3 * images  # of four epochs, two of them cut: each image is read once in an epoch
    with counted(store) as counts:
        assert_equal(eval_batches(in_bucket), eval_batches(on_disk))
    assert "GET list" not in counts and sum(counts.values()) <= 2 * 14
    assert pipeline_description(on_disk, "hash") == pipeline_description(in_bucket, "hash")
