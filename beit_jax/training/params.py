"""Trees of parameters by name, and the one idiom by which something is chosen for each of them."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from beit_jax.errors import UserError

Rules = Sequence[tuple[str, Any]]


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """`{"encoder/norm/scale": array, ...}`, in sorted order."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return {name: flat[name] for name in sorted(flat)}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def digest(params: Mapping[str, Any]) -> str:
    """A hash of names, types, shapes and values of arrays on the host."""
    seen = hashlib.blake2b(digest_size=16)
    for name, values in flatten(params).items():
        values = np.ascontiguousarray(values)
        seen.update(repr((name, values.dtype.name, values.shape)).encode())
        seen.update(values.data)
    return seen.hexdigest()


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

    def name(path: Iterable[Any]) -> str:
        return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)

    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(name(path), leaf), tree)


def merge(
    initial: Mapping[str, Any],
    loaded: Mapping[str, Any],
    fresh: Sequence[str] = (),
    drop: Sequence[str] = (),
    way_out: str = "choose settings of the model that are those of the checkpoint",
) -> dict[str, Any]:
    """Puts loaded parameters in the place of initial ones; every name and shape must agree.

    Args:
      initial: tree of the model's parameters; leaves need a `shape`.
      loaded: tree of parameters from a checkpoint.
      fresh: regular expressions of names that keep their initial value where `loaded` has none of that shape.
      drop: regular expressions of loaded names that are not wanted.
      way_out: ends the message of the error.

    Raises:
      UserError: lists every missing, unexpected and mis-shaped name.
    """

    def matches(patterns: Sequence[str], name: str) -> bool:
        return any(re.search(pattern, name) for pattern in patterns)

    target, source = flatten(initial), flatten(loaded)
    kept = {name for name in not_in(initial, loaded) if matches(fresh, name)}
    wanted = [name for name in target if name not in kept]
    missing = [name for name in wanted if name not in source]
    extra = [name for name in source if name not in target and not matches(drop, name)]
    shapes = [
        f"{name} {tuple(source[name].shape)} (expected {tuple(target[name].shape)})"
        for name in wanted
        if name in source and source[name].shape != target[name].shape
    ]
    problems = [
        f"{title}: {', '.join(names)}"
        for title, names in (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise UserError(f"the checkpoint does not fit the model; {'; '.join(problems)}: {way_out}")
    return unflatten(target | {name: source[name] for name in wanted})


def not_in(initial: Mapping[str, Any], loaded: Mapping[str, Any]) -> list[str]:
    """The names of `initial` that `loaded` has not, or in another shape."""
    target, source = flatten(initial), flatten(loaded)
    return [name for name in target if name not in source or source[name].shape != target[name].shape]
