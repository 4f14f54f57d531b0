"""Trees of parameters by name, and lists of rules that choose a value for each name."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from beit_jax.errors import UserError

Rules = Sequence[tuple[str, Any]]  # (regular expression, value); the first match wins


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """`{"encoder/norm/scale": array, ...}`, in sorted order."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return {name: flat[name] for name in sorted(flat)}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def digest(params: Mapping[str, Any]) -> str:
    """A hash of names, types, shapes and values of arrays on the host."""
    hashed = hashlib.blake2b(digest_size=16)
    for name, values in flatten(params).items():
        values = np.ascontiguousarray(values)
        hashed.update(repr((name, values.dtype.name, values.shape)).encode())
        hashed.update(values.data)
    return hashed.hexdigest()


def choose(rules: Rules, name: str) -> Any:
    """The value of the first rule whose regular expression is found in `name`.

    Raises:
      LookupError: no rule matches; lists of rules end in a `".*"`.
    """
    for pattern, value in rules:
        if re.search(pattern, name):
            return value
    raise LookupError(f"no rule matches the parameter {name!r}")


def map_names(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Maps `function(name, leaf)` over any pytree; names inside an optimizer state end in the parameter's name."""

    def apply(path: tuple[Any, ...], leaf: Any) -> Any:
        return function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)

    return jax.tree_util.tree_map_with_path(apply, tree)


def split(params: Mapping[str, Any], patterns: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two trees: the parameters whose names match none of the regular expressions, and the others."""
    flat = flatten(params)
    matched = {name for name in flat if any(re.search(pattern, name) for pattern in patterns)}
    parts = {name: flat[name] for name in flat if name not in matched}, {name: flat[name] for name in sorted(matched)}
    return unflatten(parts[0]), unflatten(parts[1])


def join(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """One tree of the parameters of all trees; where several have a parameter, the last one's value."""
    return unflatten({name: leaf for tree in trees for name, leaf in flatten(tree).items()})


def merge(
    initial: Mapping[str, Any],
    loaded: Mapping[str, Any],
    optional: Sequence[str] = (),
    ignored: Sequence[str] = (),
    advice: str = "choose the settings of the model that the checkpoint was made with",
) -> dict[str, Any]:
    """Replaces initial parameters by loaded ones; names and shapes must agree.

    Args:
      initial: tree of the model's parameters; leaves need a `shape`.
      loaded: tree of parameters from a checkpoint.
      optional: regular expressions of names that may differ. The model's parameters of these names keep their initial
        values where `loaded` has none of that shape; those of `loaded` are left out where the model has none.
      ignored: regular expressions of names that only `loaded` may have; they are left out.
      advice: end of the error message.

    Raises:
      UserError: lists every missing, unexpected and mis-shaped name.
    """

    def matches(patterns: Sequence[str], name: str) -> bool:
        return any(re.search(pattern, name) for pattern in patterns)

    target, source = flatten(initial), flatten(loaded)
    kept = {name for name in unmatched_names(initial, loaded) if matches(optional, name)}
    needed = [name for name in target if name not in kept]
    missing = [name for name in needed if name not in source]
    unexpected = [name for name in source if name not in target and not matches((*optional, *ignored), name)]
    shapes = [
        f"{name} {tuple(source[name].shape)} (expected {tuple(target[name].shape)})"
        for name in needed
        if name in source and source[name].shape != target[name].shape
    ]
    problems = [
        f"{title}: {', '.join(names)}"
        for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise UserError(f"the checkpoint does not fit the model; {'; '.join(problems)}: {advice}")
    return unflatten(target | {name: source[name] for name in needed})


def unmatched_names(initial: Mapping[str, Any], loaded: Mapping[str, Any]) -> list[str]:
    """Names of `initial` that `loaded` does not have, or has in another shape."""
    target, source = flatten(initial), flatten(loaded)
    return [name for name in target if name not in source or source[name].shape != target[name].shape]
