"""`hf:FOLDER`: a folder as `datasets` of Hugging Face writes it, or as its hub holds a data set of images."""

import json
import os
import re
from pathlib import Path
from typing import Any

from beit_jax.data.sources.examples import DataSet
from beit_jax.data.sources.hf_columns import ARROW, PARQUET
from beit_jax.data.sources.hf_images import METADATA, ClassFolders, NamedFiles
from beit_jax.data.sources.hf_tables import Tables
from beit_jax.data.sources.layout import REFERENCE, describe_missing
from beit_jax.data.sources.split_names import by_split, find_files
from beit_jax.errors import UserError

DICT, STATE = "dataset_dict.json", "state.json"  # what `save_to_disk` writes


def open_hf(folder: str) -> DataSet:
    """
    Raises:
      UserError: there is no such folder, or it holds no data set of images.
    """
    if not os.path.isdir(folder):
        raise UserError(describe_missing(folder))
    if os.path.isfile(os.path.join(folder, DICT)):
        names = _read(Path(folder, DICT)).get("splits")
        if not isinstance(names, list) or not all(
            isinstance(name, str) and re.fullmatch(r"\w+", name) for name in names
        ):
            raise UserError(f"{Path(folder, DICT)} names no splits; write the data set again with save_to_disk")
        return Tables(folder, {name: _saved(Path(folder, name)) for name in names})
    if os.path.isfile(os.path.join(folder, STATE)):
        return Tables(folder, {REFERENCE: _saved(Path(folder))})
    tables = [path for path in find_files(folder, (PARQUET, ARROW)) if os.path.basename(path) not in METADATA]
    if named := [file for name in ("", *_folders(folder)) for file in _metadata(folder, name)]:
        return NamedFiles(folder, named)
    if tables:
        return _tables(folder, tables)
    if tars := find_files(folder, (".tar", ".tar.gz", ".tgz")):
        raise UserError(f"{folder} holds tar files, such as {tars[0]}; give tars:{folder}")
    return ClassFolders(folder)


def _tables(folder: str, paths: list[str]) -> Tables:
    kinds = {os.path.splitext(path)[1] for path in paths}
    if len(kinds) > 1:
        raise UserError(f"{folder} holds Parquet and Arrow files; expected one kind: remove or move the others")
    splits = by_split(paths, folder)
    for split, files in splits.items():
        folders = sorted({os.path.dirname(file) for file in files})
        if len(folders) > 1:
            raise UserError(
                f"the files of the split '{split}' lie in {folders[0]} and {folders[1]}, as those of several data "
                f"sets; give one of them, such as hf:{folders[0]}"
            )
    return Tables(folder, splits)


def _saved(folder: Path) -> list[str]:
    """The files of a split that `save_to_disk` wrote."""
    state = _read(folder / STATE)
    files = state.get("_data_files")
    names = (
        [file.get("filename") if isinstance(file, dict) else None for file in files] if isinstance(files, list) else []
    )
    if not names or not all(isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) for name in names):
        raise UserError(f"{folder / STATE} names no files of its folder; write the data set again with save_to_disk")
    if state.get("_indices_files"):
        raise UserError(f"{folder} is a selection of rows; write it again after flatten_indices()")
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing, which {STATE} names; restore it")
    return [str(folder / name) for name in names]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is missing or damaged ({error}); write the data set again with save_to_disk"
        ) from error
    return found if isinstance(found, dict) else {}


def _folders(folder: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")


def _metadata(folder: str, name: str) -> list[Path]:
    return [path for kind in METADATA if (path := Path(folder, name, kind)).is_file()]
