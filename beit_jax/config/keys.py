"""A key of a config, declared once: its default, which also gives its type, the allowed values, and a line of help."""

import dataclasses
import math
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from beit_jax.errors import UserError
from beit_jax.runtime.urls import check_url, is_url

LARGEST = 2**31 - 1  # steps and sizes are int32 on the devices
LARGEST_SIDE = 2**16  # of an image in pixels: products of a few sides are int64
SMALLEST_FLOAT = 2.0**-126  # above 0; devices may take smaller ones for 0
LARGEST_FLOAT = (2 - 2.0**-23) * 2.0**127


@dataclasses.dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
      default: the value if none is set. Other values must have the same type; for a float, an int is allowed too.
      help: one line for `--help`.
      at_least: smallest allowed number.
      above: allowed numbers are larger than this.
      at_most: largest allowed number.
      below: allowed numbers are smaller than this.
      choices: the allowed values; empty: all.
      check: a function of the value: "" if the value is allowed, else a text that says what is expected.
      resumable: whether a run may be continued with another value, because it does not change what is learned.
      is_size: whether the value may also be a pair of such numbers, height and width.
      is_path: whether the value is a path, also in a bucket, or `stage:NAME` or "random"; of `init_from` also a hub id.

    Examples:
      >>> from beit_jax.config import Key
      >>> turns = Key(4, "quarter turns to tell apart", at_least=2, at_most=4)
      >>> turns.validate("turns", 5)
      Traceback (most recent call last):
      beit_jax.errors.UserError: turns=5; expected at least 2 and at most 4
    """

    default: Any
    help: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    check: Callable[[Any], str] | None = None
    resumable: bool = False
    is_size: bool = False
    is_path: bool = False

    def validate(self, name: str, value: Any) -> None:
        """Checks a value.

        Raises:
          UserError: the value has another type, is out of range once it is a float32, or is none of the choices.
        """
        if not is_finite(value):
            raise UserError(f"{name}={value!r}; expected {self.finite}")
        if not self.has_type(value):
            raise UserError(f"{name}={value!r} is {type(value).__name__}; expected {self._type_in_words()}")
        if self.choices and value not in self.choices:
            raise UserError(f"{name}={value!r}; expected one of {', '.join(map(str, self.choices))}")
        number = _in_float32(name, value)
        if not self._in_range(number):
            rounded = f" is {number!r} in float32" if self._in_range(value) else ""
            raise UserError(f"{name}={value!r}{rounded}; expected {self.range}")
        if self.is_path and is_url(value):
            try:
                check_url(value)
            except UserError as error:
                raise UserError(f"{name}={error}") from error
        if type(value) is int and type(self.default) is int and abs(value) > LARGEST:
            raise UserError(f"{name}={value!r}; expected at most {LARGEST}")
        if self.check and (expected := self.check(number)):
            raise UserError(f"{name}={value!r}; expected {expected}")

    @property
    def range(self) -> str:
        """The allowed range in words, such as "at least 0 and below 1"; empty: any number."""
        limits = (("at least", self.at_least), ("above", self.above), ("at most", self.at_most), ("below", self.below))
        return " and ".join(f"{words} {limit}" for words, limit in limits if limit is not None)

    @property
    def finite(self) -> str:
        """The numbers that are expected in place of an infinite one, in words."""
        return f"a finite number, {self.range}" if self.range else "a finite number"

    def has_type(self, value: Any) -> bool:
        """Whether a value has the type of the default; an int is a float, too."""
        if self.is_size and type(value) is tuple:
            return len(value) == 2 and all(type(side) is int for side in value)
        if isinstance(self.default, float):
            return type(value) in (int, float)
        return type(value) is type(self.default)

    def _type_in_words(self) -> str:
        if self.is_size:
            return "a number of pixels, or height and width, such as (96, 192)"
        words = {int: "int, a whole number", float: "float, a number", bool: "bool, true or false"}
        example = self.default or ("...",)
        return words.get(type(self.default), f"{type(self.default).__name__}, such as {example!r}")

    def _in_range(self, value: Any) -> bool:
        if self.is_size and type(value) is tuple:
            return all(map(self._in_range, value))
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )


Keys = Mapping[str, Any]  # from a name to its `Key`, or from a section of the config to its `Keys`


def flatten_keys(keys: Keys, prefix: str = "") -> dict[str, Key]:
    """`{"optimizer.lr": Key(...), ...}`."""
    flat = {}
    for name, key in keys.items():
        flat |= {f"{prefix}{name}": key} if isinstance(key, Key) else flatten_keys(key, f"{prefix}{name}.")
    return flat


def default_values(keys: Keys) -> ConfigDict:
    """A config that holds every key's default, and takes values of any type: `Key.validate` checks them."""
    values = {name: key.default if isinstance(key, Key) else default_values(key) for name, key in keys.items()}
    return ConfigDict(values, type_safe=False)


def is_finite(value: Any) -> bool:
    """Whether every number in a value, or in a tuple of values, is one that a float can be: no inf, nan or 1e400."""
    if isinstance(value, tuple | list):
        return all(map(is_finite, value))
    try:
        return not isinstance(value, int | float) or math.isfinite(value)
    except OverflowError:
        return False


def _in_float32(name: str, value: Any) -> Any:
    """A value with its floats, also those in a tuple, as devices see them: rounded to float32, 0.999999999 to 1.0.

    Raises:
      UserError: a number that float32 cannot hold.
    """
    if isinstance(value, tuple | list):
        return type(value)(_in_float32(name, part) for part in value)
    if type(value) is not float:
        return value
    if value and not SMALLEST_FLOAT <= abs(value) <= LARGEST_FLOAT:
        raise UserError(
            f"{name}={value!r} is {'infinite' if abs(value) > 1 else '0'} in float32; expected 0, or a size between "
            f"{SMALLEST_FLOAT:.2g} and {LARGEST_FLOAT:.2g}"
        )
    return struct.unpack("f", struct.pack("f", value))[0]


def check_regular_expressions(patterns: tuple[str, ...]) -> str:
    """The check of a key that holds regular expressions."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            return f"regular expressions, and {pattern!r} is none: {error}"
    return ""
