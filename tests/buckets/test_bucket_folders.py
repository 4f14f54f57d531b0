"""A folder of images in a bucket: the same listing, batches and refusals as of a disk."""

import logging
import time

import numpy as np
import pytest
from PIL import Image
from same_data import (
    assert_equal,
    counted,
    eval_batches,
    forget,
    gone_for,
    input_config,
    retries,
    save_images,
    train_batches,
    upload,
)

from beit_jax.data import fingerprint
from beit_jax.data.common_images import count_common
from beit_jax.data.sources import folder_checks, layout, skipped
from beit_jax.data.sources.folder import list_folder, list_pairs
from beit_jax.data.sources.image_sizes import some_sizes
from beit_jax.errors import UserError
from beit_jax.runtime import bucket

CLASSES = ("ant", "bée")
IMAGES = [f"train/{name}/{number:02}.jpg" for name in CLASSES for number in range(30)]
IMAGES += [f"val/{name}/{number}.jpg" for name in CLASSES for number in range(7)]
ODD = ["train/ant/deeper/a [1]*?#%.PNG", "train/ant/.hidden.png", "train/__MACOSX/x.png", "train/bée/.thumbs/1.png"]
pytestmark = pytest.mark.usefixtures("short_patience")


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """Two splits with two classes, and files of all kinds that are not read."""
    root = tmp_path_factory.mktemp("photos")
    save_images(root, *IMAGES, *ODD)
    (root / "train/ant/notes.txt").write_text("no image")
    (root / "train/ant/scan.tif").write_bytes(b"II")
    (root / "train/ant/broken.jpg").write_bytes(b"no image")
    (root / "readme.md").write_text("no image")
    return root


@pytest.fixture
def in_bucket(on_disk, folder):
    upload(on_disk, folder)
    return folder


def configs_of(*roots, **changes):
    return [input_config(source=f"folder:{root}", eval_split="validation", **changes) for root in roots]


@pytest.mark.slow
def test_the_same_batches_with_few_requests(on_disk, in_bucket, store):
    local, remote = configs_of(on_disk, in_bucket)
    with counted(store) as counts:
        batches = train_batches(remote, 4, start=2)
    assert_equal(batches, train_batches(local, 4, start=2))
    # A third of the first epoch, the second one, and what is read ahead: at most 8 batches of 16 in two more epochs.
    assert counts.pop("GET list") == 1 and sum(counts.values()) <= 4 * 62
    local.eval_split = remote.eval_split = "train"
    with counted(store) as counts:
        assert_equal(eval_batches(remote, batch_size=31), eval_batches(local, batch_size=31))
    assert "GET list" not in counts and sum(counts.values()) == 62


def test_the_same_numbers_in_data_json(on_disk, in_bucket, store):
    local, remote = configs_of(on_disk, in_bucket)
    with counted(store) as counts:
        before, now = (fingerprint.describe_split(config, "train[:50%]") for config in (local, remote))
        assert now.pop("contents") and before == now
        assert fingerprint.fingerprint(local) == fingerprint.fingerprint(remote)
        assert (
            count_common(remote, "train[:60%]", "train[40%:]") == count_common(local, "train[:60%]", "train[40%:]") > 0
        )
    assert counts == {"GET list": 1}


def test_other_contents_of_the_same_size_are_noticed(on_disk, in_bucket):
    (config,) = configs_of(in_bucket)
    before = fingerprint.describe_split(config, "train")
    name = in_bucket / "train/ant/broken.jpg"
    name.write_bytes(b"No image")
    forget()
    now = fingerprint.describe_split(config, "train")
    assert before["hash"] == now["hash"]
    assert fingerprint.describe_change(before, now) == "files of the same names and sizes, but with other contents"


def test_the_same_listing_and_warnings(on_disk, in_bucket, caplog):
    found = []
    for root in map(str, (on_disk, in_bucket)):
        skipped._warn.cache_clear()
        with caplog.at_level(logging.WARNING, "beit_jax"):
            listing = list_folder(root, "train[:90%]")
        names = [path.removeprefix(root) for path in listing.paths]
        messages = [
            record.getMessage().replace(root, "ROOT") for record in caplog.records if "not read in" in record.message
        ]
        caplog.clear()
        found.append(
            (names, listing.labels, listing.classes, messages, layout.list_splits(root), some_sizes(listing.paths))
        )
    assert found[0] == found[1]
    assert any("2 hidden" in message or ".tif" in message for message in found[0][3])


LAYOUTS = {
    "splits one level deeper": ["data/train/a/1.png", "data/val/a/2.png"],
    "splits within classes": ["a/train/1.png", "a/test/2.png", "b/train/3.png"],
    "classes beside splits": ["train/1.png", "val/2.png", "cats/3.png"],
    "the same split twice": ["val/1.png", "valid/2.png", "train/3.png"],
    "names like splits": ["seg_train/1.png", "seg_test/2.png"],
    "nothing that can be read": ["a/1.tif", "b/2.tif", "notes.txt"],
    "an empty class": ["a/1.png", "b/2.heic", "c/3.png"],
    "images beside classes": ["a/1.png", "2.png"],
    "one class": ["a/1.png"],
    "all classes in one": ["a/b/1.png", "a/c/2.png"],
    "an unknown class": ["train/a/1.png", "val/b/2.png"],
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_the_same_refusals(names, tmp_path, folder):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"II")
    upload(tmp_path, folder)

    def messages(root):
        root, found = str(root), []
        for split in ("train", "validation"):
            for check in (
                folder_checks.check_folder,
                folder_checks.check_split,
                folder_checks.check_classes,
                list_folder,
            ):
                try:
                    check(*(root, split)[: 1 if check is folder_checks.check_folder else 2])
                except UserError as error:
                    found.append(str(error).replace(root, "ROOT"))
        return found

    assert messages(folder) == messages(tmp_path) != []


def test_names_that_no_disk_has(folder, caplog):
    for name in ("a/1.png", "a//2.png", "a/../b/3.png", "made/by/the/console/"):
        bucket.blob(f"{folder}/{name}").upload_from_string(b"x")
    forget()
    skipped._warn.cache_clear()
    with caplog.at_level(logging.WARNING, "beit_jax"):
        assert list_folder(str(folder), "train").paths == [f"{folder}/a/1.png"]
    assert "hidden files and folders, and those of the system (1 .(no name), 1 ..)" in caplog.text
    assert "folders without images (made)" in caplog.text


def test_label_maps(tmp_path, folder, store):
    random = np.random.default_rng(0)
    for part, count in (("training", 10), ("validation", 4)):
        save_images(tmp_path, *(f"images/{part}/{number}.jpg" for number in range(count)))
        (tmp_path / "annotations" / part).mkdir(parents=True)
        for number in range(count):
            size = Image.open(tmp_path / f"images/{part}/{number}.jpg").size[::-1]
            label_map = Image.fromarray(random.integers(0, 3, size, np.uint8))
            label_map.save(tmp_path / f"annotations/{part}/{number}.png")
    upload(tmp_path, folder)
    ops = "decode|resize(8)|normalize|pad_to(30, 30)"
    local, remote = configs_of(tmp_path, folder, ops=ops, eval_ops=ops)
    with counted(store) as counts:
        assert_equal(eval_batches(remote, batch_size=4), eval_batches(local, batch_size=4))
    assert counts.pop("GET list") == 1
    assert counts == {
        "GET test_label_maps/images/validation/N.jpg": 4,
        "GET test_label_maps/annotations/validation/N.png": 4,
    }
    (folder / "annotations/training/3.png").unlink()
    (folder / "annotations/training/3.jpg").write_bytes(b"x")
    forget()
    with pytest.raises(UserError, match=r"training/3.jpg has no label map .* but gs://.*/annotations/training/3.jpg"):
        list_pairs(str(folder), "train")


def test_the_same_batches_from_a_store_that_fails(on_disk, in_bucket, store):
    local, remote = configs_of(on_disk, in_bucket)
    expected, before = train_batches(local, 3), retries()
    list_folder(str(in_bucket), "train")
    store.failing = 0.2
    gone_for(store, 2)
    assert_equal(train_batches(remote, 3), expected)
    assert retries() - before > 20


def test_a_store_that_is_gone(in_bucket, store, monkeypatch):
    monkeypatch.setenv("BEIT_JAX_BUCKET_PATIENCE", "0.5")
    (remote,) = configs_of(in_bucket)
    list_folder(str(in_bucket), "train")
    store.is_gone = True
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        train_batches(remote, 4)
    assert time.monotonic() - start < 30
    assert str(error.value).startswith("gs://beit/") and "within 0.5 s" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_image_that_is_deleted_meanwhile_is_replaced(in_bucket):
    (remote,) = configs_of(in_bucket)
    remote.ops = remote.eval_ops = "decode|resize(8)|normalize"
    victim = list_folder(str(in_bucket), "validation").paths[3]
    in_bucket.__class__(victim).unlink()
    (batch,) = eval_batches(remote)
    assert batch["valid"].sum() == 13


@pytest.mark.parametrize(
    "path, message",
    [
        ("gs://nowhere/photos", r"there is no bucket gs://nowhere; correct the name"),
        ("gs://beit/nothing", r"there is no folder gs://beit/nothing; check the path, such as with gcloud storage ls"),
        ("gs://beit/photos.zip", "gs://beit/photos.zip is a file; expected the folder that the images lie in"),
        ("gs://", "gs:// names no bucket"),
        ("s3://beit/photos", "s3://beit/photos is a URL; expected a folder, or a path in a bucket: gs://BUCKET/NAME"),
    ],
)
def test_wrong_paths(store, path, message):
    bucket.blob("gs://beit/photos.zip").upload_from_string(b"PK")
    with pytest.raises(UserError, match=message) as error:
        folder_checks.check_folder(layout.path_of(f"folder:{path}"))
    assert "\n" not in str(error.value)


def test_no_rights(in_bucket, store):
    store.refusal = 403
    with pytest.raises(UserError, match="this account has no right to do that; give it roles/storage") as error:
        folder_checks.check_folder(str(in_bucket))
    assert "\n" not in str(error.value)
