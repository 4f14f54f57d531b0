import contextlib
import os

import pytest
import tensorflow as tf

from beit_jax import config as configs
from beit_jax import local_files
from beit_jax.data.sources.folder import list_folder, list_pairs
from beit_jax.data.sources.open_source import open_source
from beit_jax.errors import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def names(listing, root):
    return sorted(os.path.relpath(path, root) for path in listing.paths)


def test_class_folders(tmp_path):
    touch(tmp_path, "b/1.JPG", "b/deep/2.png", "a/3.jpeg", "a/notes.txt", "a/._3.jpg", ".hidden/4.png", "c/readme.md")
    listing = list_folder(str(tmp_path), "train")
    assert listing.num_classes == 2
    assert names(listing, tmp_path) == ["a/3.jpeg", "b/1.JPG", "b/deep/2.png"]
    labels = {os.path.relpath(path, tmp_path)[0]: label for path, label in zip(*listing[:2], strict=True)}
    assert labels == {"a": 0, "b": 1}


def test_split_folders_share_the_classes_of_train(tmp_path):
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "val/b/3.png", "test/4.gif")
    validation = list_folder(str(tmp_path), "validation")
    assert (validation.labels, validation.num_classes) == ([1], 2)
    assert names(list_folder(str(tmp_path), "train"), tmp_path) == ["train/a/1.png", "train/b/2.png"]
    touch(tmp_path, "val/c/5.png")
    with pytest.raises(UserError, match=r"class folder .*c is not in"):
        list_folder(str(tmp_path), "validation")
    with pytest.raises(UserError, match="has the splits train, validation, test, not 'holdout'"):
        list_folder(str(tmp_path), "holdout")


def test_flat_folder_is_one_class(tmp_path):
    touch(tmp_path, "1.png", "2.bmp")
    listing = list_folder(str(tmp_path), "train")
    assert (listing.labels, listing.num_classes) == ([0, 0], 1)


def test_slices_cover_and_mix(tmp_path):
    touch(tmp_path, *(f"{name}/{index}.png" for name in "ab" for index in range(50)))
    root = str(tmp_path)
    whole = list_folder(root, "train")
    parts = list_folder(root, "train[:90%]"), list_folder(root, "train[90%:]")
    assert [len(part.paths) for part in parts] == [90, 10]
    assert parts[0].paths + parts[1].paths == whole.paths
    assert 0 < sum(parts[1].labels) < 10
    assert list_folder(root, "train[-10:]") == parts[1]
    assert list_folder(root, "train[20:30]").paths == whole.paths[20:30]
    assert list_folder(root, "train[:-75%]").paths == whole.paths[:25]
    # The order is that of the names alone: a copy elsewhere has the same slices.
    copy = tmp_path / "copy" / "train"
    touch(copy, *(f"{name}/{index}.png" for name in "ab" for index in range(50)))
    moved = list_folder(str(copy.parent), "train[:90%]").paths
    assert [os.path.relpath(path, copy) for path in moved] == [os.path.relpath(path, root) for path in parts[0].paths]


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        ([], "train", "holds no images"),
        (["a/1.txt"], "train", "holds no images"),
        (["a/1.svg", "a/2.TIF", "b/3.svg"], "train", r"no images that can be read \(2 \.svg, 1 \.tif are not: convert"),
        (["a/1.png"], "validation", r"only the split 'train' and its slices, not 'validation'"),
        (["a/1.png"], "train[", "expected a name with or without a slice"),
        (["a/1.png"], "train[5:]", "asks for images 5 to 1 of 1"),
        (["a/1.png"], "train[:9]", "asks for images 0 to 9 of 1"),
    ],
)
def test_mistakes(tmp_path, files, split, message):
    touch(tmp_path, *files)
    with pytest.raises(UserError, match=message):
        list_folder(str(tmp_path), split)


def test_images_beside_folders_have_no_classes(tmp_path):
    touch(tmp_path, "1.png", "a/2.png", "a/b/3.png", "c/4.png")
    listing = list_folder(str(tmp_path), "train")
    assert names(listing, tmp_path) == ["1.png", "a/2.png", "a/b/3.png", "c/4.png"]
    assert listing.classes == [] and listing.labels == [0] * 4 and listing.num_classes == 1
    for task, message in (("classify", "has images beside the class folder a; move them"), ("tokenizer", "")):
        config = configs.defaults(task)
        config.data.source, config.data.split, config.data.eval_split = f"folder:{tmp_path}", "train", "train[:50%]"
        with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
            local_files.check_data(config)


@pytest.mark.parametrize("is_paired", [False, True])
def test_names_that_are_not_utf_8(tmp_path, is_paired):
    """Files are read by their bytes; names of classes become text."""
    names = ("images/\udcff.png", "annotations/\udcff.png") if is_paired else ("\udcfe/\udcff.png", "a/1.png")
    touch(tmp_path, *names)
    for name in names:
        (tmp_path / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    source = open_source(f"folder:{tmp_path}", "", "train", 1)
    records = [source.record(tf.constant(index, tf.int64)) for index in range(source.num_examples)]
    found = {record["image"].numpy() for record in records}
    assert found == ({b"images/\xff.png"} if is_paired else {b"\xfe/\xff.png", b"a/1.png"})
    assert source.class_names == (() if is_paired else ("\\xfe", "a"))


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        list_folder(str(tmp_path / "nowhere"), "train")


def test_webp_files_are_listed_and_other_formats_counted_once(tmp_path, caplog):
    touch(tmp_path, "a/1.webp", "a/2.WEBP", "b/3.png", "b/icon.svg", "b/deep/scan.tiff", "b/other.svg", "a/notes.txt")
    touch(tmp_path, "b/4", "b/README")
    for _ in range(2):
        assert names(list_folder(str(tmp_path), "train"), tmp_path) == ["a/1.webp", "a/2.WEBP", "b/3.png"]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"not read in {tmp_path}: 4 files that are no images by the extension (2 .svg, 1 without extension, 1 .tiff; "
        "to use pictures, convert them to PNG or JPEG; for TIFF: python -m beit_jax.tiff_to_arrays "
        f"--images {tmp_path} --out arrays)"
    )


def test_pairs_count_other_formats_too(tmp_path, caplog):
    touch(tmp_path, "images/1.webp", "images/2.heic", "annotations/1.png")
    assert len(list_pairs(str(tmp_path), "train")) == 1
    assert "1 file that is no image by the extension (1 .heic;" in caplog.text
    (tmp_path / "images/1.webp").unlink()
    with pytest.raises(UserError, match=r"1 \.heic are not: convert them"):
        list_pairs(str(tmp_path), "train")
