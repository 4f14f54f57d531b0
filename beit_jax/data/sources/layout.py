"""Which folders below a data folder are splits, which are classes, and which hold images and label maps."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from beit_jax.data.sources.image_walk import holds_images, is_run, subfolders
from beit_jax.data.sources.names import class_name
from beit_jax.data.sources.tree import exists, is_folder, path_at, scan
from beit_jax.errors import UserError
from beit_jax.runtime.paths import as_path
from beit_jax.runtime.urls import is_bucket

REFERENCE = "train"  # the split whose class folders number the classes of all splits, where it is there
IMAGES, ANNOTATIONS = "images", "annotations"  # the folders of a data set for segmentation
# Names of split folders, in any case, as torchvision, Keras, Roboflow, Kaggle and Hugging Face have them. There, `eval`
# means either of two splits: it is none here.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF = {folder: split for split, folders in SPLIT_FOLDERS.items() for folder in folders}
NAMES = "; ".join(f"{', '.join(folders)} for {split}" for split, folders in SPLIT_FOLDERS.items())
SHOWN = 5  # folders of a message


class SplitFolder(NamedTuple):
    """The folder of a split, and the folder whose class folders number the classes."""

    folder: Path
    reference: Path


def path_of(source: str) -> str:
    """The path of a source `folder:PATH`, with the home folder for `~`; "" for another source.

    Raises:
      UserError: the path is empty.
    """
    if not source.startswith("folder:"):
        return ""
    path = source.removeprefix("folder:").lstrip()
    if not path:
        raise UserError(f"the source {source!r} names no folder; expected folder:PATH, such as folder:photos")
    return str(as_path(path))


def describe_missing(root: str) -> str:
    """Why there is no such folder."""
    if exists(root):
        return f"{root} is a file; expected the folder that the images lie in"
    if root == "PATH":
        return "there is no folder PATH; write the path of your own images in its place, such as folder:photos"
    if is_bucket(root):
        hint = "check the path, such as with gcloud storage ls; a bucket has a folder while an object lies in it"
    elif "\\" in root:
        hint = "this system separates folders with /, not with \\"
    elif os.path.isabs(root):
        hint = "check the path"
    else:
        hint = f"the path starts from {os.getcwd()}: check it, or give all of it"
    return f"there is no folder {root}; {hint}"


def list_splits(root: str) -> list[str]:
    """Names of the splits of a folder that `list_folder` or `list_pairs` reads; ["train"] without split folders.

    Raises:
      UserError: the folder is missing, or see `find_splits`.
    """
    if not is_folder(root):
        raise UserError(describe_missing(root))
    paired = find_paired(root)
    return list(find_splits(paired[0] if paired else path_at(root))) or ["train"]


def split_folder(top: Path, name: str) -> SplitFolder:
    """The folder of a split.

    Args:
      top: the folder of the images.
      name: of the split, without a slice.

    Raises:
      UserError: there is no such split, or see `find_splits`.
    """
    splits = find_splits(top)
    if not splits and name != "train":
        raise UserError(
            f"{top} has no split folders ({NAMES}), and so only the split 'train' and its slices, not '{name}'; "
            "choose slices, such as data.split=train[:90%] and data.eval_split=train[90%:] or, to evaluate a run on "
            "all images, data.eval_split=train"
        )
    if not splits:
        return SplitFolder(top, top)
    if name not in splits:
        raise UserError(f"{top} has the splits {', '.join(splits)}, not '{name}'; choose one or add the folder")
    return SplitFolder(splits[name], splits.get(REFERENCE, splits[name]))


def find_splits(top: Path) -> dict[str, Path]:
    """The split folders in a folder of images, by the names of the splits; empty if there are none.

    Folders without images, hidden ones, and those of runs do not count.

    Raises:
      UserError: it cannot be told which folders are splits: there are others beside them, two are the same split, they
        have names like splits, or they lie one level deeper.
    """
    if is_run(top):
        raise UserError(f"{top} is the folder of a run, whose pictures are no data; give the folder of your images")
    names = subfolders(top)
    splits = named_splits(top, names)
    if not splits:
        _check_names(top, names)
        _check_wrapper(top, names)
        return {}
    others = [name for name in names if not is_split(name) and holds_images(top / name)]
    if others:
        named = [path.name for path in splits.values()]
        raise UserError(
            f"{top} has {_folders(named)}, which {_are(named)} by name, beside {_folders(others)} with images, too; if "
            f"these are no classes, move them elsewhere; if all are classes, rename {_folders(named)} (splits are "
            f"called {NAMES})"
        )
    return splits


def is_split(name: str) -> bool:
    """Whether a folder has the name of a split, in any case."""
    return name.lower() in SPLIT_OF


def named_splits(top: Path, names: Iterable[str]) -> dict[str, Path]:
    """Those of the folders in a folder that have the name of a split, in any case, in the order of `SPLIT_FOLDERS`.

    Raises:
      UserError: two of them with images mean the same split.
    """
    found: dict[str, list[str]] = {split: [] for split in SPLIT_FOLDERS}
    for name in names:
        if split := SPLIT_OF.get(name.lower()):
            found[split].append(name)
    for split, same in found.items():
        if len(same) > 1:
            same = [name for name in same if holds_images(top / name)] or same[:1]
        if len(same) > 1:
            raise UserError(f"{top} has {_folders(same)}, which both mean the split '{split}'; keep one of them")
        found[split] = same
    return {split: top / same[0] for split, same in found.items() if same}


def check_depth(root: str | Path, folders: Iterable[str]) -> None:
    """Checks that no splits lie within classes, where they would be mixed.

    Args:
      root: of the data.
      folders: paths of all folders below a split, or below a folder without split folders.

    Raises:
      UserError: a folder holds several split folders.
    """
    found: dict[str, dict[str, str]] = {}
    for folder in folders:
        parent, name = os.path.split(folder)
        if split := SPLIT_OF.get(name.lower()):
            found.setdefault(parent, {})[split] = name
    mixed = sorted(parent for parent, names in found.items() if len(names) > 1)
    if mixed:
        advice = f"give folder:{mixed[0]}" if len(mixed) == 1 else "move the splits above the classes"
        raise UserError(
            f"{mixed[0]} has the split folders {_listed(sorted(found[mixed[0]].values()))}, whose images would be "
            f"mixed; expected them right in {root}: {advice}"
        )


def class_folders(folder: Path) -> dict[str, Path]:
    """The class folders in a folder, with images or not, by the names of the classes, in their order.

    Raises:
      UserError: two folders have the same name in different forms of Unicode.
    """
    found: dict[str, Path] = {}
    for name in subfolders(folder):
        if (text := class_name(name)) in found:
            raise UserError(
                f"{folder} has two class folders of the same name {text!r}, written with different bytes "
                f"({os.fsencode(found[text].name)!r} and {os.fsencode(name)!r}); move their images into one of them"
            )
        found[text] = folder / name
    return dict(sorted(found.items()))


def is_paired(root: str) -> bool:
    """Whether a folder has the layout of `list_pairs`."""
    return find_paired(root) is not None


def find_paired(root: str | Path) -> tuple[Path, Path] | None:
    """The folders of images and of label maps, called so in any case, of a data set for segmentation."""
    if not is_folder(root):
        return None
    by_name: dict[str, str] = {}
    with scan(str(root)) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        if name.lower() in (IMAGES, ANNOTATIONS) and (name.islower() or name.lower() not in by_name):
            by_name[name.lower()] = name
    found = [path_at(root) / by_name.get(kind, kind) for kind in (IMAGES, ANNOTATIONS)]
    return (found[0], found[1]) if all(map(is_folder, found)) else None


def counterpart(folder: Path, images: Path, annotations: Path, name: str) -> Path:
    """The folder of label maps that belongs to a folder of images; it may be missing.

    Args:
      folder: of the images of a split.
      images: the folder of all images.
      annotations: the folder of all label maps.
      name: of the split.

    Raises:
      UserError: two folders of label maps mean the same split.
    """
    if folder == images:
        return annotations
    return named_splits(annotations, subfolders(annotations)).get(name, annotations / folder.name)


def _check_names(top: Path, names: Iterable[str]) -> None:
    """Raises UserError for names such as `seg_train` and `test_set`, of which nobody makes classes."""
    alike: dict[str, str] = {}
    for name in names:
        for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name):
            split = SPLIT_OF.get(word.lower().removesuffix("set").removesuffix("data"))
            if split:
                alike.setdefault(split, name)
    if "train" in alike and len(set(alike.values())) > 1:
        raise UserError(
            f"{top} has {_folders(alike.values())}, which look like splits and would be read as classes; rename them "
            f"(splits are called {NAMES}), or, if they are classes, give them other names"
        )


def _check_wrapper(top: Path, names: Iterable[str]) -> None:
    """Raises UserError if all images lie in one folder which has the splits, or the images and label maps."""
    with_images: list[str] = []
    for name in names:
        with_images += [name] if holds_images(top / name) else []
        if len(with_images) > 1:
            return
    for name in with_images:
        if find_paired(top / name) or find_splits(top / name):
            raise UserError(f"the splits of {top} lie one level deeper; give folder:{top / name}")


def _are(names: list[str]) -> str:
    return "is a split" if len(names) == 1 else "are splits"


def _folders(names: Iterable[str]) -> str:
    names = list(names)
    return f"the folder{'s' * (len(names) > 1)} {_listed(names)}"


def _listed(names: Iterable[str]) -> str:
    shown = [f"{name}/" for name in names]
    if len(shown) > SHOWN:
        shown[SHOWN - 1 :] = [f"{len(shown) - SHOWN + 1:,} others"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
