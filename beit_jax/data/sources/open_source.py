"""Opens the source that a config names."""

import contextlib
import functools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from beit_jax.data.sources import data_sets, image_label_pairs
from beit_jax.data.sources.fetched import FetchedSource
from beit_jax.data.sources.folder import list_folder, list_pairs
from beit_jax.data.sources.indexed import IndexedSource, open_examples
from beit_jax.data.sources.layout import is_paired, path_of
from beit_jax.data.sources.listed import ListedSource
from beit_jax.data.sources.shard_files import check_files
from beit_jax.data.sources.sharded import ShardedSource
from beit_jax.data.sources.source import Source
from beit_jax.errors import UserError
from beit_jax.runtime.paths import as_path
from beit_jax.runtime.urls import is_bucket

METADATA = "dataset_info.json"  # of a data set of tfds, in the folder of its files


def open_source(name: str, data_dir: str, split: str, shuffle_buffer: int) -> Source:
    """The source of a split. If there are label maps beside the images, it has them instead of labels.

    Args:
      name: "digits", "digit_scenes", "folder:PATH", one of `data_sets.PREFIXES` with a path, or the name of a prepared
        tfds data set.
      data_dir: the folder of tfds data sets; empty for tfds' default.
      split: with or without a slice, such as "train[:90%]".
      shuffle_buffer: records among which tfds data sets are shuffled.

    Raises:
      UserError: there is nothing to read.
    """
    if folder := path_of(name):
        return _open_folder(folder, split)
    if data_sets.has_prefix(name):
        return _open_data_set(name, split)
    builder, _ = open_split(name, data_dir, split)
    create = image_label_pairs.ShardedPairSource if image_label_pairs.has_label_maps(builder) else ShardedSource
    return create(builder, split, shuffle_buffer)


def open_split(name: str, data_dir: str, split: str) -> tuple[tfds.core.DatasetBuilder, tfds.core.SplitInfo]:
    """A tfds data set, and one of its splits, with or without a slice.

    Raises:
      UserError: there is no such data set, or no such split, or a file of it is not the one that was written.
    """
    builder = open_builder(name, data_dir)
    try:
        found = builder.info.splits[split]
        check_files(builder, found)
        return builder, found
    except (ValueError, KeyError) as error:
        known = ", ".join(f"{key} ({info.num_examples})" for key, info in builder.info.splits.items())
        raise UserError(
            f"cannot read split '{split}' of {name}, which has {known}: {_first_line(error)}; choose others or slices, "
            "such as data.split=train[:90%] and data.eval_split=train[90%:]"
        ) from None


@functools.lru_cache(maxsize=4)
def _open_folder(folder: str, split: str) -> ListedSource:
    """The files of a folder. They are listed once, so that a run sees the same files wherever it uses the split."""
    if is_paired(folder):
        pairs = list_pairs(folder, split)
        in_bucket = is_bucket(folder)
        return (image_label_pairs.FetchedPairSource if in_bucket else image_label_pairs.ListedPairSource)(pairs)
    listing = list_folder(folder, split)
    return open_files(listing.paths, listing.labels, listing.num_classes, tuple(listing.classes))


def open_files(
    files: Sequence[str], labels: list[int], num_classes: int, class_names: tuple[str, ...] = ()
) -> ListedSource:
    """The source of images in files, all of this machine or all in buckets; the rest as `ListedSource` takes it."""
    paths = [os.fsencode(file) for file in files]
    if files and is_bucket(files[0]):
        return FetchedSource(paths, labels, num_classes, class_names)
    return ListedSource(paths, labels, paths, num_classes, in_files=True, class_names=class_names)


@functools.lru_cache(maxsize=4)
def _open_data_set(name: str, split: str) -> IndexedSource:
    """A split of a user's own data set, opened once, as the files of a folder are listed once."""
    return open_examples(data_sets.select(name, split))


def open_builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The tfds data set of a name, which is prepared.

    Raises:
      UserError: it is not prepared in `data_dir`, or has no images.
    """
    if is_bucket(data_dir):
        return _open_in_bucket(name, data_dir)
    data_dir = os.path.expanduser(data_dir) or None
    if data_dir is None and "TFDS_DATA_DIR" not in os.environ:
        Path.home()  # raises where there is none: tfds would make a folder that is called `~`
    if builder_class := _built_in(name):
        return _prepare_once(builder_class, data_dir)
    return _open_prepared(name, data_dir)


@functools.lru_cache(maxsize=8)  # each file of metadata is a request
def _open_in_bucket(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """As `open_builder`, of a data set in a bucket."""
    from beit_jax.runtime.bucket import prepare
    from beit_jax.runtime.bucket_cache import check_folder

    prepare()
    check_folder()
    data_dir = os.fspath(as_path(data_dir))
    if builder_class := _built_in(name):
        return _upload_once(builder_class, data_dir)
    return _open_prepared(name, data_dir)


def _built_in(name: str) -> type[tfds.core.GeneratorBasedBuilder] | None:
    """The data set of this package that has a name."""
    if name == "digits":
        from beit_jax.data.sources.digits import Digits

        return Digits
    if name == "digit_scenes":
        from beit_jax.data.sources.digit_scenes import DigitScenes

        return DigitScenes
    return None


def _open_prepared(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:
        if isinstance(error, UserError):
            raise
        prepared = as_path(data_dir or tfds.core.constants.DATA_DIR) / re.split(r"[/:]", name)[0]
        if prepared.is_dir():
            raise UserError(
                f"the metadata of the data set {prepared} are missing or damaged ({_first_line(error)}); restore them, "
                "or run the command again that writes the data set"
            ) from None
        hint = (
            f"'folder:{name}'"
            if Path(name).is_dir()
            else f"digits, digit_scenes, folder:PATH, {data_sets.describe()} or a tfds name"
        )
        raise UserError(f"there is no data set '{name}' ({_first_line(error)}); expected {hint}") from None
    if not builder.info.splits:
        folder = data_dir or Path(builder.data_dir).parents[len(Path(builder.name).parts)]
        raise UserError(f"{name} is not prepared in {folder}; run: tfds build {name} --data_dir={folder}")
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f"{name} is stored as {builder.info.file_format.value}, expected tfrecord; prepare it again in that format"
        )
    features = builder.info.features
    if "image" not in features or not isinstance(features["image"], tfds.features.Image):
        raise UserError(f"{name} has the features {', '.join(features.keys())}; expected an image named 'image'")
    _check_class_names(builder)
    return builder


def _check_class_names(builder: tfds.core.DatasetBuilder) -> None:
    """Raises UserError if a file of class names, which tfds reads as it is, does not fit the number of classes."""
    features = builder.info.features
    if "label" not in features or not isinstance(features["label"], tfds.features.ClassLabel):
        return
    label = features["label"]
    different = len(set(label.names))
    if not different == len(label.names) == label.num_classes:
        raise UserError(
            f"{builder.data_dir} has {len(label.names)} names of classes, {different} of them different, for "
            f"{label.num_classes} classes; restore the file label.labels.txt in it"
        )


def _prepare_once(
    builder_class: type[tfds.core.GeneratorBasedBuilder], data_dir: str | None
) -> tfds.core.GeneratorBasedBuilder:
    """A builder whose files are written under `data_dir` (None: tfds' default folder) unless they are there.

    Raises:
      UserError: they cannot be written there, such as below a home folder that does not exist.
    """
    builder = builder_class(data_dir=data_dir)
    if not builder.is_prepared():
        tfds.disable_progress_bar()
        try:
            with contextlib.redirect_stdout(sys.stderr):  # standard output is for the results of commands
                builder.download_and_prepare()
        except Exception as error:
            # Another process of the same run may have finished first, so that the folder was there already.
            builder = builder_class(data_dir=data_dir)
            if builder.is_prepared():
                return builder
            if not isinstance(error, OSError):
                raise
            folder = Path(builder.data_dir).parents[len(Path(builder.name).parts)]
            raise UserError(
                f"the data set {builder.name} cannot be written to {folder} ({error.strerror or error}); set the "
                "environment variable TFDS_DATA_DIR, or the key data.data_dir, to a folder that can be written"
            ) from error
    return builder


def _upload_once(builder_class: type[tfds.core.GeneratorBasedBuilder], data_dir: str) -> tfds.core.DatasetBuilder:
    """As `_prepare_once`, in a bucket: the files are made on this machine, since tfds renames a folder at the end."""
    from beit_jax.runtime.bucket_path import is_incomplete, uploaded

    with tempfile.TemporaryDirectory(prefix="beit_jax-") as folder:
        relative = Path(builder_class(data_dir=folder).data_dir).relative_to(folder)
        prepared = as_path(data_dir) / relative.as_posix()
        if not (prepared / METADATA).is_file() or is_incomplete(prepared):
            _prepare_once(builder_class, folder)
            with uploaded(prepared) as part:
                shutil.copytree(Path(folder, relative), part)
    return tfds.builder_from_directory(prepared)


def _first_line(error: Exception) -> str:
    return str(error).strip("'\"").split("\n")[0]
