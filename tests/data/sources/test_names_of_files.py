"""Names of classes and files: blanks, other scripts, forms of Unicode, and bytes that are not UTF-8."""

import os
import unicodedata

import pytest
import tensorflow_datasets as tfds

from beit_jax.data.records import shard_writer
from beit_jax.data.sources.folder import list_folder
from beit_jax.data.sources.open_source import open_source
from beit_jax.errors import UserError

NFC, NFD = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_forms_of_unicode_are_one_class(tmp_path):
    touch(tmp_path, f"train/{NFC}/1.png", "train/bus/2.png", f"val/{NFD}/3.png", "val/bus/4.png")
    for split in ("train", "validation"):
        listing = list_folder(str(tmp_path), split)
        assert listing.classes == ["bus", NFC]
        assert sorted(zip(listing.labels, map(os.path.basename, listing.paths), strict=True)) == (
            [(0, "2.png"), (1, "1.png")] if split == "train" else [(0, "4.png"), (1, "3.png")]
        )
    touch(tmp_path, f"train/{NFD}/5.png")
    with pytest.raises(UserError, match=r"two class folders of the same name 'été', written with different bytes"):
        list_folder(str(tmp_path), "train")


def test_slices_do_not_depend_on_the_form(tmp_path):
    """A copy of the folder by another system holds out the same images."""
    for form in ("NFC", "NFD"):
        touch(tmp_path / form, *(unicodedata.normalize(form, f"é/ü{number}.png") for number in range(40)))
        touch(tmp_path / form, *(f"b/{number}.png" for number in range(40)))
    held_out = [
        {unicodedata.normalize("NFC", os.path.relpath(path, tmp_path / form)) for path in paths}
        for form in ("NFC", "NFD")
        for paths in [list_folder(str(tmp_path / form), "train[80%:]").paths]
    ]
    assert len(held_out[0]) == 16 and held_out[0] == held_out[1]


CLASSES = ("Cat", "a b", "a  b", "a,b", "cat", "猫", "\udce9")
KEPT = sorted([*CLASSES[:-1], "\\xe9"])


def test_names_of_classes_survive_records(tmp_path):
    """What training on the folder calls its classes, training on its records does, too."""
    touch(tmp_path / "images", *(f"{name}/caf\udce9.png" for name in CLASSES))
    assert list_folder(str(tmp_path / "images"), "train").classes == KEPT
    shard_writer.write_dataset(str(tmp_path / "images"), tmp_path / "out", "photos", 1, 0, 1)
    source = open_source("photos", str(tmp_path / "out"), "train", 1)
    assert source.class_names == tuple(KEPT)
    as_stored = {"image": tfds.decode.SkipDecoding()}
    records = tfds.as_numpy(tfds.load("photos", data_dir=tmp_path / "out", decoders=as_stored)["train"])
    expected = {os.fsencode(f"{name}/caf\udce9.png") for name in CLASSES}
    assert {bytes(record["file_name"]) for record in records} == expected


@pytest.mark.parametrize("name", [" a", "a ", "a\nb", "a\tb", " "])
def test_names_that_records_cannot_keep_are_refused(tmp_path, name):
    touch(tmp_path / "images", f"{name}/1.png", "b/2.png")
    assert name in list_folder(str(tmp_path / "images"), "train").classes
    with pytest.raises(UserError, match="expected a printable name without blanks around it") as error:
        shard_writer.write_dataset(str(tmp_path / "images"), tmp_path / "out", "photos", 1, 0, 1)
    assert repr(name) in str(error.value) and not (tmp_path / "out").exists()
