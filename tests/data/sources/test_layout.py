"""Which folders are splits, which are classes, and what is refused: layouts as public data sets have them."""

import pytest

from beit_jax import config as configs
from beit_jax.data.sources.folder import list_folder, list_pairs
from beit_jax.data.sources.folder_checks import check_classes, check_folder
from beit_jax.data.sources.layout import find_paired, list_splits
from beit_jax.errors import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def of(*folders, classes="ab"):
    """A file in each class folder of some folders."""
    return [f"{folder}/{name}/1.png" for folder in folders for name in classes]


ALL = ["train", "validation", "test"]
READ = {
    "flat": (["1.png", "2.jpg"], ["train"], []),
    "classes": (of("."), ["train"], ["a", "b"]),
    "ImageFolder": (of("train", "val"), ["train", "validation"], ["a", "b"]),
    "Roboflow": (of("train", "valid", "test"), ALL, ["a", "b"]),
    "Kaggle": (of("Training", "Testing"), ["train", "test"], ["a", "b"]),
    "other case": (of("Train", "Val", "TEST"), ALL, ["a", "b"]),
    "Hugging Face": (of("train", "dev", "testing"), ALL, ["a", "b"]),
    "only train": (of("train"), ["train"], ["a", "b"]),
    "only test": (of("test"), ["test"], ["a", "b"]),
    "tables beside splits": ([*of("train", "validation"), "meta/labels.csv"], ["train", "validation"], ["a", "b"]),
    "the Mac's own": (
        [*of("train", "val"), "__MACOSX/train/._1.png", ".git/x.png"],
        ["train", "validation"],
        ["a", "b"],
    ),
    "an empty folder beside splits": ([*of("train", "val"), "new/"], ["train", "validation"], ["a", "b"]),
    "a second split folder without images": ([*of("train", "val"), "valid/"], ["train", "validation"], ["a", "b"]),
    "flat splits": (["train/1.png", "val/2.png"], ["train", "validation"], []),
    "deep classes": (["a/x/y/1.png", "b/2.png"], ["train"], ["a", "b"]),
    "case makes classes": (of(".", classes=["cat", "Cat"]), ["train"], ["Cat", "cat"]),
    "words of splits in names of classes": (
        of(".", classes=["train_station", "bus"]),
        ["train"],
        ["bus", "train_station"],
    ),
    "tables beside classes": ([*of("."), "meta/labels.csv"], ["train"], ["a", "b"]),
}


@pytest.mark.parametrize("name", READ)
def test_layouts_that_are_read(tmp_path, name):
    files, splits, classes = READ[name]
    for folder in (file for file in files if file.endswith("/")):
        (tmp_path / folder).mkdir(parents=True)
    touch(tmp_path, *(file for file in files if not file.endswith("/")))
    check_folder(str(tmp_path))
    assert list_splits(str(tmp_path)) == splits
    for split in splits:
        assert list_folder(str(tmp_path), split).classes == classes
        if classes:
            check_classes(str(tmp_path), split)
    data = configs.set_source(configs.defaults("classify"), f"folder:{tmp_path}").data
    assert (data.eval_split == "validation") == ("validation" in splits)


REFUSED = {
    "a class called train": (
        of(".", classes=["train", "bus", "car"]),
        "the folder train/, which is a split by name, be",
    ),
    "other images beside splits": ([*of("train", "val"), "extra/1.png"], "beside the folder extra/ with images, too"),
    "eval has two meanings": (of("train", "eval"), "beside the folder eval/ with images, too"),
    "one split twice": (
        of("train", "val", "valid"),
        "the folders val/ and valid/, which both mean the split 'validati",
    ),
    "one split in two cases": (
        of("train", "Train"),
        "the folders Train/ and train/, which both mean the split 'train'",
    ),
    "names like splits": (
        of("seg_train", "seg_test", "seg_pred"),
        "the folders seg_test/ and seg_train/, which look l",
    ),
    "sets": (of("training_set", "test_set"), "the folders test_set/ and training_set/, which look like splits"),
    "numbers": (of("train2017", "val2017"), "the folders train2017/ and val2017/, which look like splits"),
    "one word": (of("trainset", "valset"), "the folders trainset/ and valset/, which look like splits"),
    "splits one level deeper": (of("data/train", "data/val"), "one level deeper; give folder:{root}/data"),
    "two levels deeper": (of("a/b/train", "a/b/test"), "one level deeper; give folder:{root}/a/b"),
    "pairs one level deeper": (["x/images/1.png", "x/annotations/1.png"], "one level deeper; give folder:{root}/x"),
    "splits within classes": (
        of("a", "b", classes=["train", "test"]),
        "{root}/a has the split folders test/ and train/",
    ),
    "two numberings": ([*of("train"), "val/c/1.png"], "the class folder {root}/val/c is not in {root}/train"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layouts_that_are_refused(tmp_path, name):
    files, message = REFUSED[name]
    touch(tmp_path, *files)
    with pytest.raises(UserError) as error:
        for split in list_splits(str(tmp_path)):
            list_folder(str(tmp_path), split)
    assert message.format(root=tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


ONE_CLASS = {
    "flat": (["1.png"], "{root} has no class folders, and so no labels; expected at least two"),
    "flat splits": (["train/1.png", "val/1.png"], "{root}/train has no class folders"),
    "one class": (["a/1.png"], "{root} has one class folder; expected at least two"),
    "wrapper": (
        of("all"),
        "one class folder, all/, and all others lie in it; if the classes are a, b, give folder:{root}/al",
    ),
    "two wrappers": (of("x/y"), "if the classes are a, b, give folder:{root}/x/y, or move them into {root}"),
    "wrapper in a split": (of("train/x", "val/x"), "if the classes are a, b, move them into {root}/train"),
    "class of other files": ([*of("."), "c/1.heic", "c/2.heic"], "the class folder {root}/c (2 .heic) holds no images"),
    "empty class": ([*of("."), "c/d/"], "the class folder {root}/c (it is empty) holds no images"),
}


@pytest.mark.parametrize("name", ONE_CLASS)
def test_folders_without_classes_to_tell_apart(tmp_path, name):
    """They can be read for tasks without labels."""
    files, message = ONE_CLASS[name]
    for folder in (file for file in files if file.endswith("/")):
        (tmp_path / folder).mkdir(parents=True)
    touch(tmp_path, *(file for file in files if not file.endswith("/")))
    check_folder(str(tmp_path))
    assert list_folder(str(tmp_path), "train").paths
    with pytest.raises(UserError) as error:
        check_classes(str(tmp_path), "train[:90%]")
    assert message.format(root=tmp_path) in str(error.value)


def test_pairs_in_other_cases(tmp_path):
    touch(tmp_path, "Images/Train/1.jpg", "Images/valid/2.jpg", "annotations/training/1.png", "annotations/VAL/2.png")
    assert list_splits(str(tmp_path)) == ["train", "validation"]
    for split, image, label_map in (("train", "Train/1", "training/1"), ("validation", "valid/2", "VAL/2")):
        expected = f"{tmp_path}/Images/{image}.jpg", f"{tmp_path}/annotations/{label_map}.png"
        assert list_pairs(str(tmp_path), split) == [expected]
    touch(tmp_path, "annotations/val/2.png")
    with pytest.raises(UserError, match="the folders VAL/ and val/, which both mean the split 'validation'"):
        list_pairs(str(tmp_path), "validation")
    assert find_paired(tmp_path / "nowhere") is None


def test_images_beside_split_folders_are_counted(tmp_path, caplog):
    touch(tmp_path, *of("train", "val"), "logo.png")
    assert len(list_folder(str(tmp_path), "train").paths) == 2
    assert "images beside the split folders (1)" in caplog.text
