"""The classes of a model by name (`labels`): filled in from the data, and found again in other data.

The number of a class is its position in `labels`. Data whose classes are in another order, or of which an evaluation
has a part, get the model's numbers (`numbers_of`); classes that the model does not know are refused.
"""

import logging
import unicodedata
from collections.abc import Sequence

from ml_collections import ConfigDict

from beit_jax.config.evals import kinds_with_labels
from beit_jax.data.sources import data_sets
from beit_jax.errors import UserError

NAMED = 5  # classes in a message
BY_NUMBER = "with --config.labels='()' they are taken by their numbers"


def fill_in(
    config: ConfigDict,
    classes: int,
    names: Sequence[str],
    *,
    to_train: bool = True,
    order: Sequence[str] = (),
    advice: str = BY_NUMBER,
) -> None:
    """Sets `model.num_classes` and `labels`, in place.

    Says which classes a model that does not name them is taken to have, unless it is a new one.

    Args:
      config: of a task with `model.num_classes`.
      classes: how many the data have; 0: not known.
      names: of these classes; empty: not known.
      to_train: whether the data must have all classes of the model; an evaluation may have fewer.
      order: the names of the classes of a classifier that the run starts from: if they are those of the data, the run
        has their order.
      advice: what else can be done about as many classes of other names, for the message.

    Raises:
      UserError: the data have classes that the config does not name, or another number of them.
    """
    source, model, by_name = config.data.source, config.model, False
    if "labels" in config:
        known = tuple(config.labels) or (tuple(order) if same_classes(order, names) else ())
        by_name = bool(names) and not are_unnamed(known) and not _by_position(known, names, source)
        if by_name:
            numbers = numbers_of(known, names, source, advice)
            _check_none_missing(known, numbers, source, to_train)
        elif (known or not to_train) and model.num_classes in (0, classes):
            _say_positions(known, names, source)
        config.labels = tuple(names) if names and are_unnamed(known) else known
        model.num_classes = model.num_classes or len(known)
    model.num_classes = model.num_classes or classes
    if not model.num_classes:
        raise UserError(
            f"{source} does not tell how many classes its label maps have; give model.num_classes, such as 150 for "
            "ADE20K"
        )
    if scores_classes(config) and classes == 1:
        what = "one class" if names else "no labels"
        raise UserError(f"{source} has {what}; expected at least two classes to tell apart")
    if not by_name and classes and classes != model.num_classes:
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
    """Whether a run needs the class of each image: to learn it, or for what compares the features of classes.

    Segmentation, the task with sliding windows, has classes of pixels instead.
    """
    return ("labels" in config and "inference" not in config) or bool(kinds_with_labels(config))


def numbers_of(known: Sequence[str], found: Sequence[str], source: str, advice: str = BY_NUMBER) -> tuple[int, ...]:
    """The number that a model gives to each class of the data.

    Names that differ in the form of their Unicode characters alone are the same. Each class keeps its number if a side
    has no names: none at all, `LABEL_0`, ... of a model, or tfds' "0", "1", ... of as many classes.

    Args:
      known: names of the classes of a model, in the order of their numbers; empty: not known.
      found: in the data; empty: not known.
      source: `data.source`.
      advice: what else can be done if there are as many of both, for the message.

    Raises:
      UserError: the model does not know a class, or knows several of its name.
    """
    if are_unnamed(known) or not found or tuple(known) == tuple(found) or _by_position(known, found, source):
        return tuple(range(len(found)))
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(known):
        numbers.setdefault(_normal(name), []).append(number)
    unknown = [name for name in found if _normal(name) not in numbers]
    if unknown:
        missing = _without(known, found)
        both = [("new", unknown), *([("missing", missing)] if len(known) == len(found) else [])]
        raise _refusal(known, found, source, both, advice)
    several = [name for name in found if len(numbers[_normal(name)]) > 1]
    if several:
        raise UserError(
            f"{source} has a class {several[0]!r}, and the model has {len(numbers[_normal(several[0])])} classes of "
            f"this name; if the classes are those of the model in the same order, {advice}"
        )
    return tuple(numbers[_normal(name)][0] for name in found)


def same_classes(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether both name the same classes, in any order."""
    return bool(one) and sorted(map(_normal, one)) == sorted(map(_normal, other))


def same_order(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether both name the same classes in the same order."""
    return list(map(_normal, one)) == list(map(_normal, other))


def are_unnamed(names: Sequence[str]) -> bool:
    """Whether the names of classes are missing, or are what transformers writes for classes without names."""
    return all(name == f"LABEL_{number}" for number, name in enumerate(names))


def _check_none_missing(known: Sequence[str], numbers: Sequence[int], source: str, to_train: bool) -> None:
    missing = [name for number, name in enumerate(known) if number not in set(numbers)]
    if to_train and missing:
        raise _refusal(known, (), source, [("missing", missing)], "")


def _refusal(
    known: Sequence[str], found: Sequence[str], source: str, changes: Sequence[tuple[str, Sequence[str]]], advice: str
) -> UserError:
    kind, plural = ("class folder", "class folders") if source.startswith("folder:") else ("class", "classes")
    what = [
        f"{plural if len(names) > 1 else kind} {_listed(names)} {'are' if len(names) > 1 else 'is'} {word}"
        for word, names in changes
        if names
    ]
    more = f"; if they are the same classes in the same order, {advice}" if len(known) == len(found) else ""
    return UserError(
        f"{source}: {', '.join(what)}; expected the classes of the model, {_listed(known)}: give the data the same "
        f"names{more}"
    )


def _by_position(known: Sequence[str], found: Sequence[str], source: str) -> bool:
    """Whether the data have numbers in place of names, and as many classes as the model."""
    return len(known) == len(found) and not same_classes(known, found) and _are_numbers(found, source)


def _say_positions(known: Sequence[str], found: Sequence[str], source: str) -> None:
    """Warns that one side does not name its classes."""
    named, who = (found, source) if are_unnamed(known) else (known, "the model")
    if not named or _are_numbers(named, source):
        return  # neither side has names
    numbered = [f"class {number} is {name!r}" for number, name in enumerate(named[:NAMED])]
    more = [f"... ({len(named)})"] if len(named) > NAMED else []
    other = source if who == "the model" else "the model"
    logging.getLogger("beit_jax").warning(
        "no names of the classes of %s are known; they are taken in the order of those of %s: %s",
        *(other, who, ", ".join(numbered + more)),
    )


def _are_numbers(names: Sequence[str], source: str) -> bool:
    """Whether these are what tfds gives as names of classes without names; users' own data have names or none."""
    own = source.startswith("folder:") or data_sets.has_prefix(source)
    return not own and all(name == str(number) for number, name in enumerate(names))


def _normal(name: str) -> str:
    """A name as it is compared: file systems and archives change the form of letters with accents."""
    return unicodedata.normalize("NFC", name)


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    others = set(map(_normal, others))
    return [name for name in names if _normal(name) not in others]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:NAMED])) + (f", ... ({len(names)})" if len(names) > NAMED else "")
