import errno
import shutil

import numpy as np
import pytest
from sklearn.datasets import load_digits

from beit_jax.data.sources import digits
from beit_jax.data.sources.open_source import open_builder
from beit_jax.errors import UserError


def test_split_is_stratified_and_fixed():
    labels = load_digits().target
    test = digits.held_out(labels)
    assert test.sum() == 359
    np.testing.assert_allclose(np.bincount(labels[test]) / np.bincount(labels), 0.2, atol=0.005)
    assert np.flatnonzero(test)[:6].tolist() == [3, 7, 13, 19, 36, 38]  # published figures depend on this choice


def test_images_are_the_scans(sharded_dir):
    builder = open_builder("digits", sharded_dir)
    scans, count = load_digits(), 0
    levels = np.round(scans.images * 255 / 16).astype(np.uint8)
    expected = {(image.tobytes(), int(label)) for image, label in zip(levels, scans.target, strict=True)}
    for split in ("train", "test"):
        for example in builder.as_dataset(split=split).as_numpy_iterator():
            assert (example["image"].tobytes(), int(example["label"])) in expected
            count += 1
    assert count == 1797
    assert builder.info.features["label"].num_classes == 10


def test_another_process_may_prepare_first(tmp_path, monkeypatch, sharded_dir):
    def overtaken(builder):
        shutil.copytree(f"{sharded_dir}/digits", tmp_path / "digits")
        raise OSError("the folder is there already")

    monkeypatch.setattr(digits.Digits, "download_and_prepare", overtaken)
    assert open_builder("digits", str(tmp_path)).info.splits["test"].num_examples == 359


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (OSError("disk full"), UserError, r"digits cannot be written to .* \(disk full\); set .*TFDS_DATA_DIR"),
        (OSError(errno.EROFS, "Read-only file system"), UserError, r"\(Read-only file system\); set .*data.data_dir"),
        (ValueError("another bug"), ValueError, "another bug"),
    ],
)
def test_other_failures_are_reported(tmp_path, monkeypatch, failure, kind, message):
    def fail(builder):
        raise failure

    monkeypatch.setattr(digits.Digits, "download_and_prepare", fail)
    with pytest.raises(kind, match=message):
        open_builder("digits", str(tmp_path))


def test_a_home_folder_that_cannot_be_written_is_one_line(tmp_path):
    """tfds' default folder is below it."""
    (tmp_path / "home").write_text("a file, and no folder")
    with pytest.raises(UserError, match=r"digits cannot be written to .*home/tensorflow_datasets \(Not a directory\)"):
        open_builder("digits", str(tmp_path / "home" / "tensorflow_datasets"))
