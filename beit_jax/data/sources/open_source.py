"""From the name of a data set in a config to its source."""

import functools
from pathlib import Path

import tensorflow_datasets as tfds

from beit_jax.data.sources import image_label_pairs
from beit_jax.data.sources.folder import is_paired, list_folder, list_pairs
from beit_jax.data.sources.listed import Listed
from beit_jax.data.sources.sharded import Sharded
from beit_jax.errors import UserError


def open_source(name: str, data_dir: str, split: str, shuffle_buffer: int) -> Listed | Sharded:
    """The source that `name` stands for: "digits", "digit_scenes", "folder:PATH", or a prepared tfds dataset's name.

    `data_dir` is where tfds datasets lie ("" for tfds' default). Where there are label maps beside the images, they
    take the place of the labels (see `pairs`). Raises UserError when there is nothing to read.
    """

    if name.startswith("folder:"):
        return _listed(name.removeprefix("folder:"), split)
    builder = prepared(name, data_dir or None)
    kind = image_label_pairs.ShardedPairs if image_label_pairs.has_label_maps(builder) else Sharded
    try:
        return kind(builder, split, shuffle_buffer)
    except (ValueError, KeyError) as error:
        known = ", ".join(f"{key} ({info.num_examples})" for key, info in builder.info.splits.items())
        raise UserError(f"cannot read split '{split}' of {name}, which has {known}: {_first_line(error)}") from None


@functools.lru_cache(maxsize=4)
def _listed(folder: str, split: str) -> Listed:
    """The files of a folder, listed once: all that a run asks of a split is asked of the same files."""
    if is_paired(folder):
        return image_label_pairs.ListedPairs(list_pairs(folder, split))
    listing = list_folder(folder, split)
    return Listed(listing.paths, listing.labels, listing.paths, listing.num_classes, in_files=True)


def prepared(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The tfds dataset of a name; raises UserError where it is not prepared in `data_dir`, or has no images."""
    if name == "digits":
        from beit_jax.data.sources import digits

        return digits.prepared(data_dir)
    if name == "digit_scenes":
        from beit_jax.data.sources import digit_scenes, digits

        return digits.prepared(data_dir, digit_scenes.DigitScenes)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:
        hint = f"'folder:{name}'" if Path(name).is_dir() else "digits, digit_scenes, folder:PATH or a tfds name"
        raise UserError(f"there is no dataset '{name}' ({_first_line(error)}); expected {hint}") from None
    if not builder.info.splits:
        folder = data_dir or Path(builder.data_dir).parents[len(Path(builder.name).parts)]
        raise UserError(f"{name} is not prepared in {folder}; run: tfds build {name} --data_dir={folder}")
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise UserError(f"{name} is stored as {builder.info.file_format.value}, expected tfrecord; prepare it again so")
    features = builder.info.features
    if "image" not in features or not isinstance(features["image"], tfds.features.Image):
        raise UserError(f"{name} has the features {', '.join(features.keys())}; expected an image named 'image'")
    return builder


def _first_line(error: Exception) -> str:
    return str(error).strip("'\"").split("\n")[0]
