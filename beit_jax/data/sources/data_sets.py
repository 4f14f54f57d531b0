"""Users' own data sets by the prefix of `data.source`, such as `npz:digits.npz`: their splits, slices and checks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from beit_jax.data.sources.examples import REFERENCE, DataSet, Examples
from beit_jax.data.sources.hf import open_hf
from beit_jax.data.sources.listed_once import kept
from beit_jax.data.sources.npy import open_npy
from beit_jax.data.sources.npz import open_npz
from beit_jax.data.sources.slices import parse_split
from beit_jax.data.sources.tars import open_tars
from beit_jax.errors import UserError
from beit_jax.runtime.urls import check_url, is_url

# What is written behind each prefix, and how it is opened.
PREFIXES: dict[str, tuple[str, Callable[[str], DataSet]]] = {
    "npz": ("FILE", open_npz),
    "npy": ("FOLDER", open_npy),
    "tars": ("FOLDER", open_tars),
    "hf": ("FOLDER", open_hf),
}
HELD_OUT = (
    "validation",
    "eval",
    "val",
    "valid",
    "dev",
    "test",
)  # splits to evaluate on


def describe() -> str:
    """How each is written, for messages."""
    return ", ".join(f"{prefix}:{what}" for prefix, (what, _) in PREFIXES.items())


def has_prefix(source: str) -> bool:
    """Whether a source is one of `PREFIXES`."""
    return source.partition(":")[0] in PREFIXES and ":" in source


def path_of_data_set(source: str) -> str:
    """The path of a source with a prefix, with the home folder for `~`.

    Raises:
      UserError: it is empty, or in a bucket.
    """
    prefix, _, path = source.partition(":")
    if not path.strip():
        raise UserError(f"the source {source!r} names no path; expected {prefix}:{PREFIXES[prefix][0]}")
    if is_url(path.strip()):
        check_url(path.strip())
        raise UserError(
            f"{source} lies in a bucket, where folders of images and data sets of tfds alone are read; copy it, "
            f"such as with gcloud storage cp --recursive {path.strip()} ., and give its path there"
        )
    return str(Path(path.strip()).expanduser())


@kept
def open_data_set(source: str) -> DataSet:
    """
    Raises:
      UserError: it cannot be read.
    """
    return PREFIXES[source.partition(":")[0]][1](path_of_data_set(source))


@kept
def select(source: str, split: str) -> Examples:
    """The examples of a split, with or without a slice.

    A slice is cut from a permutation that depends on the number of examples alone, in which classes are mixed, and is
    in the order in which the examples are stored.

    Raises:
      UserError: there is no such split, or nothing in it.
    """
    part, data_set = parse_split(split), open_data_set(source)
    if part.name not in data_set.splits:
        several = len(data_set.splits) > 1
        raise UserError(
            f"{source} has the split{'s' * several} {', '.join(data_set.splits)}, not '{part.name}'; choose another, "
            f"or slices, such as data.split={data_set.splits[0]}[:90%] and data.eval_split={data_set.splits[0]}[90%:]"
        )
    examples = data_set.examples(part.name)
    if part.start is None and part.stop is None and examples.count:
        return examples
    # NumPy never changes the numbers of RandomState.
    chosen = part.of(np.random.RandomState(0).permutation(examples.count))
    return examples._replace(chosen=np.sort(chosen).astype(np.int64))


def check_labelled(source: str, split: str, *, may_lack: bool = False) -> None:
    """Checks that the images of a split have classes to tell apart.

    Args:
      source: a data set with a prefix.
      split: of it.
      may_lack: whether some labels may be unknown, as where examples are chosen by their labels.

    Raises:
      UserError: they have none.
    """
    examples = select(source, split)
    if examples.labels is None:
        raise UserError(
            f"the images of '{split}' have no labels; give them labels (tokenizers, pre-training need none)"
        )
    unknown = int((examples.chosen_labels < 0).sum())
    if unknown and not may_lack:
        raise UserError(
            f"{unknown} of the {len(examples.positions)} images of '{split}' have the label -1, so that their class is "
            "not known; leave them out of the split (tokenizers, pre-training take them, with evals.kinds=rankme)"
        )
    if examples.num_classes < 2:
        raise UserError(f"the images of '{split}' are all of one class; expected at least two classes to tell apart")


def default_splits(source: str) -> tuple[str, str]:
    """The splits that configs take to train and to evaluate on; a tenth is held out where there is no other split."""
    splits = open_data_set(source).splits
    train = REFERENCE if REFERENCE in splits else splits[0]
    others = [name for name in (*HELD_OUT, *splits) if name in splits and name != train]
    return (train, others[0]) if others else (f"{train}[:90%]", f"{train}[90%:]")


def count_common(source: str, split: str, other: str) -> int:
    """How many examples are in both of two splits."""
    if parse_split(split).name != parse_split(other).name:
        return 0
    return len(np.intersect1d(select(source, split).positions, select(source, other).positions))
