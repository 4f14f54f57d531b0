"""Checkpoints in several files with an index, as transformers and huggingface_hub write large ones.

The index, such as `model.safetensors.index.json`, says in which file each tensor is: `{"weight_map": {name: file}}`.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from beit_jax.convert import safetensors_file, settings_limits
from beit_jax.convert.read_budget import excerpt
from beit_jax.errors import Mistakes, UserError

INDEX = ".index.json"  # follows the name that the weights would have in one file
WEIGHTS = "model.safetensors"
MAX_SHARD_SIZE = "5GB"  # as huggingface_hub
SHOWN = 8  # names in a message

Tensors = dict[str, np.ndarray]


def is_index(path: Path) -> bool:
    """Whether a path is that of an index, by its name."""
    return path.name.endswith(INDEX)


def files_of(index: Path) -> dict[str, list[str]]:
    """The names of the tensors in each file that an index names.

    Raises:
      UserError: the index cannot be read, or names something else than files of its kind in its own folder.
    """
    suffix = Path(index.name.removesuffix(INDEX)).suffix
    weight_map = settings_limits.read_settings(index).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise UserError(f"{index} has no weight_map; expected the file of each tensor in it: download it again")
    found: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        is_plain = isinstance(file, str) and file.isprintable() and not set(file) & set("/\\:") and file[:1] != "."
        if not is_plain or Path(file).suffix != suffix:
            raise UserError(
                f"{index} says that {excerpt(name)} is in {excerpt(repr(file))}; expected the name of a {suffix} file "
                "in the same folder"
            )
        found.setdefault(file, []).append(name)
    return found


def read_tensors(index: Path, read: Callable[[Path], Tensors]) -> Tensors:
    """The tensors of all files of an index.

    Args:
      index: its path.
      read: gives the tensors of one file.

    Raises:
      UserError: a file is missing or cannot be read, or it does not hold exactly the tensors that the index says.
    """
    files = files_of(index)
    if missing := [file for file in files if not (index.parent / file).is_file()]:
        raise UserError(f"{index} names files that are not there: {_listed(missing)}; download them too")
    mistakes, tensors = Mistakes(), {}
    for file, names in files.items():
        found = read(index.parent / file)
        absent, unlisted = sorted({*names} - {*found}), sorted({*found} - {*names})
        if absent:
            mistakes.add(f"{index} says that {_listed(absent)} would be in {file}, which does not hold it")
        if unlisted:
            twice = sorted({*unlisted} & {name for others in files.values() for name in others})
            why = "which the index says is in another file" if twice else "which the index does not name"
            mistakes.add(f"{index.parent / file} holds {_listed(twice or unlisted)}, {why}")
        tensors |= found
    if mistakes:
        mistakes.add("the files are not of one checkpoint: download all of them again, with the index")
    mistakes.raise_all()
    return tensors


def write_tensors(folder: Path, tensors: Mapping[str, np.ndarray], max_shard_size: int | str = MAX_SHARD_SIZE) -> None:
    """Writes `model.safetensors`, or several files of at most `max_shard_size` each with an index.

    Args:
      folder: that exists.
      tensors: of any shapes, by their names. One that is larger than a file may be has a file of its own.
      max_shard_size: in bytes, or as text such as "5GB" (10^9 bytes each).
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    split = split_state_dict_into_shards_factory(
        {name: np.asarray(value) for name, value in tensors.items()},
        get_storage_size=lambda value: value.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    for file, names in split.filename_to_tensors.items():
        safetensors_file.write_tensors(folder / file, {name: tensors[name] for name in names})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / f"{WEIGHTS}{INDEX}").write_text(text + "\n", encoding="utf-8")


def check_size(size: int | str) -> None:
    """Checks a `max_shard_size`.

    Raises:
      UserError: it is no size in bytes.
    """
    is_text = isinstance(size, str) and re.fullmatch(r"\d+(\.\d+)? ?[KMGT]B", size) and float(size[:-2])
    if not (is_text or (type(size) is int and size > 0)):
        raise UserError(f"max_shard_size={size!r}; expected a number of bytes, or a size such as 5GB or 500MB")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(excerpt, names[:SHOWN])) + more
