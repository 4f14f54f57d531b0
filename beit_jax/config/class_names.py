"""The number of classes and their names (`labels`): filled in from the data, and compared with what a run has."""

import logging
from collections.abc import Sequence

from ml_collections import ConfigDict

from beit_jax.errors import UserError

NAMED = 5  # classes in a message


def fill_in(config: ConfigDict, classes: int, names: Sequence[str]) -> None:
    """Sets `model.num_classes` and `labels`, in place.

    Args:
      config: of a task with `model.num_classes`.
      classes: how many the data have; 0: not known.
      names: of these classes; empty: not known.

    Raises:
      UserError: the config names other classes, or has another number of them.
    """
    source, model = config.data.source, config.model
    if "labels" in config:
        check_same(config.labels, names, source, "with --config.labels='()' they are taken by their numbers")
        config.labels = tuple(names) if _names_more(names, config.labels) else config.labels
    model.num_classes = model.num_classes or classes
    if not model.num_classes:
        raise UserError(
            f"{source} does not tell how many classes its label maps have; give model.num_classes, such as 150 for "
            "ADE20K"
        )
    if scores_classes(config) and classes == 1:
        what = "one class" if names else "no labels"
        raise UserError(f"{source} has {what}; expected at least two classes to tell apart")
    if classes and classes != model.num_classes:
        raise UserError(
            f"model.num_classes={model.num_classes}, but {source} has {classes} classes; expected the same number: "
            "take data with the classes of the model or, to train a new one, model.num_classes=0"
        )
    if config.get("labels", ()) and len(config.labels) != model.num_classes:
        raise UserError(
            f"labels names {len(config.labels)} classes, and model.num_classes={model.num_classes}; expected a name "
            "for each class, or none"
        )


def scores_classes(config: ConfigDict) -> bool:
    """Whether a run needs the class of each image: to learn it, or for the nearest neighbours.

    Segmentation, the task with sliding windows, has classes of pixels instead.
    """
    return ("labels" in config and "inference" not in config) or config.get("knn", {}).get("k", 0) > 0


def check_same(known: Sequence[str], found: Sequence[str], source: str, advice: str) -> None:
    """Compares names of classes; those that are not known, on either side, are not compared.

    Says which classes a checkpoint of another library, which does not name them, is taken to have.

    Args:
      known: of a run or a checkpoint.
      found: in the data.
      source: `data.source`.
      advice: what else can be done if there are as many of both, for the message.

    Raises:
      UserError: other classes, or another order.
    """
    if not known or not found or tuple(known) == tuple(found):
        return
    if len(known) == len(found) and _are_numbers(found, source):
        return
    if len(known) == len(found) and _are_placeholders(known):
        message = "the model does not name its classes; they are taken in the order of those of %s: %s"
        numbered = [f"class {number} is {name!r}" for number, name in enumerate(found[:NAMED])]
        more = [f"... ({len(found)})"] if len(found) > NAMED else []
        return logging.getLogger("beit_jax").warning(message, source, ", ".join(numbered + more))
    kind, plural = ("class folder", "class folders") if source.startswith("folder:") else ("class", "classes")
    changes = [
        f"{plural if len(names) > 1 else kind} {_listed(names)} {'are' if len(names) > 1 else 'is'} {word}"
        for word, names in (("new", _without(found, known)), ("missing", _without(known, found)))
        if names
    ]
    what = ", ".join(changes) or "the classes are in another order"
    more = f"; if they are the same classes in the same order, {advice}" if len(known) == len(found) else ""
    raise UserError(
        f"{source}: {what}; expected the classes of the model, {_listed(known)}: give the data the same names{more}"
    )


def _names_more(found: Sequence[str], known: Sequence[str]) -> bool:
    """Whether the names of the data, which passed `check_same`, tell more than those in the config."""
    return bool(found) and (not known or _are_placeholders(known))


def _are_placeholders(names: Sequence[str]) -> bool:
    """Whether these are what transformers writes for classes without names."""
    return all(name == f"LABEL_{number}" for number, name in enumerate(names))


def _are_numbers(names: Sequence[str], source: str) -> bool:
    """Whether these are what tfds gives as names of classes without names; class folders are always named."""
    return not source.startswith("folder:") and all(name == str(number) for number, name in enumerate(names))


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    others = set(others)
    return [name for name in names if name not in others]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:NAMED])) + (f", ... ({len(names)})" if len(names) > NAMED else "")
