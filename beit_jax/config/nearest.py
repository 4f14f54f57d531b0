"""What an unknown key was probably meant to be."""

import difflib
from collections.abc import Collection, Sequence

from ml_collections import ConfigDict

from beit_jax.config.serialization import flatten

SHOWN = 8  # names that one line lists


def describe_unknown(config: ConfigDict, name: str, prefix: str = "") -> str:
    """One line that says why a config, or a recipe, has no key of a name, and which key comes nearest.

    Args:
      config: the config.
      name: that it does not have, such as "optimizer.learning_rate".
      prefix: in front of keys, such as "--config.".
    """
    stages = config.get("stages", ())
    stage, _, key = name.partition(".")
    if stages and stage not in stages:
        return _describe_unknown_stage(config, name, prefix)
    unknown = f"unknown config key {prefix + name!r}"
    own = flatten(config[stage]) if stages else flatten(config)
    place, wanted = (f"{prefix}{stage}.", key) if stages else (prefix, name)
    section = [known for known in own if known.startswith(f"{wanted}." if wanted else "")]
    if section:
        what = "stage" if stages and not key else "section"
        return f"{prefix}{name} is a {what}, not a key; its keys are {listed([f'{place}{known}' for known in section])}"
    near = nearest_key(wanted, own)
    return f"{unknown}; did you mean {place}{near}?" if near else f"{unknown}; --help lists all keys"


def nearest_key(name: str, known: Collection[str]) -> str:
    """The known key that a name was probably meant to be; "" if none is near.

    It is a key with the same last part ("lr" for "optimizer.lr"), or one that is short for it ("optimizer.lr" for
    "optimizer.learning_rate"), or the one that is spelled most alike.
    """
    section, _, last = name.rpartition(".")
    own = [key for key in known if key.rpartition(".")[0] == section] or list(known)
    for names in (own, known):
        for key in names:
            other = key.rpartition(".")[2]
            if last == other or _initials(last) == other or last == _initials(other):
                return key
    by_last = {key.rpartition(".")[2]: key for key in (*known, *own)}  # those of the section win
    near = difflib.get_close_matches(name, known, 1) or difflib.get_close_matches(last, by_last, 1)
    return by_last.get(near[0], near[0]) if near else ""


def _initials(name: str) -> str:
    words = name.split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else ""


def _describe_unknown_stage(config: ConfigDict, name: str, prefix: str) -> str:
    first, _, key = name.partition(".")
    stages = config.stages
    near = difflib.get_close_matches(first, stages, 1)
    guess = f"{near[0]}.{nearest_key(key, flatten(config[near[0]]))}" if near and key else ""
    if not guess:
        having = [stage for stage in stages if name in flatten(config[stage])]
        nearest = {stage: nearest_key(name, flatten(config[stage])) for stage in stages}
        having = having or [stage for stage in stages if nearest[stage]]
        guess = f"{having[0]}.{nearest[having[0]]}" if having else ""
    question = f"; did you mean {prefix}{guess}?" if guess else ""
    return f"{prefix}{name} names no stage: this is a recipe, whose stages are {listed(stages)}{question}"


def listed(names: Sequence[str]) -> str:
    """The names in one line; the first ones, if there are many."""
    return ", ".join((*names[:SHOWN], "...") if len(names) > SHOWN else names)
