"""Pixel statistics: the mean and the standard deviation by which ops normalize images (`data.statistics`).

Ops name them, `normalize(statistics)`, as they name sizes (`op_sizes`). An encoder goes on seeing pixels as in its
pre-training: where the key is empty, `experiment_start` takes the statistics of the checkpoint that a run starts from.
"""

import ast
import math
from typing import Any

from ml_collections import ConfigDict

from beit_jax.config.keys import Key
from beit_jax.config.op_arguments import SIGNATURES, arguments_of
from beit_jax.errors import UserError
from beit_jax.models.pixel_statistics import STATISTICS, Statistics


def _check(text: str) -> str:
    try:
        parse(text or "inception")
    except ValueError:
        names = " or ".join(map(repr, STATISTICS))
        return f"{names}, or a mean and a deviation above 0 of each channel: '(0.5, 0.5, 0.5), (0.2, 0.2, 0.2)'"
    return ""


KEY = Key(
    "",
    "of pixels: imagenet, inception, or mean and deviation; empty: the checkpoint's, or those of the data set",
    check=_check,
)


def default_of(source: str) -> str:
    """The statistics of a run that starts from no checkpoint: officially ImageNet-1k has its own, and all other data
    have 0.5 and 0.5."""
    return "imagenet" if source.startswith("imagenet2012") else "inception"


def of_config(config: ConfigDict) -> Statistics:
    """The statistics of a config.

    Raises:
      UserError: they are of another number of channels than the images.
    """
    channels = config.data.channels
    if not config.data.statistics and channels != 3:
        return parse("inception", channels)
    return parse(config.data.statistics or default_of(config.data.source), channels)


def need_measuring(config: ConfigDict) -> bool:
    """Whether nothing is known of the pixels of a config's data: neither RGB nor grey, and no statistics."""
    return not config.data.statistics and config.data.channels not in (1, 3)


def parse(text: str, channels: int = 0) -> Statistics:
    """Reads the text of `data.statistics`, for images of so many channels; 0: any.

    Raises:
      ValueError: the text is something else.
      UserError: it is of another number of channels.
    """
    if text in STATISTICS:
        return spread(STATISTICS[text], channels or 3)
    pair = _parse_numbers(text)
    if channels and len(pair[0]) != channels:
        raise UserError(
            f"data.statistics has {len(pair[0])} channels, and data.channels={channels}: give mean and deviation of "
            f"each channel; {MEASURE}"
        )
    return pair


MEASURE = "python -m beit_jax.measure_statistics measures them"


def spread(pair: Statistics, channels: int) -> Statistics:
    """Statistics for so many channels: the same ones, or those of one channel, if all are equal, for each.

    Raises:
      UserError: statistics of red, green and blue for another number of channels.
    """
    if len(pair[0]) == channels:
        return pair
    if len(set(zip(*pair, strict=True))) > 1:
        raise UserError(
            f"{as_text(pair)} are statistics of {len(pair[0])} channels, and data.channels={channels}; {MEASURE}"
        )
    return tuple((numbers[0],) * channels for numbers in pair)


def _parse_numbers(text: str) -> Statistics:
    try:
        return _checked(ast.literal_eval(text))
    except (SyntaxError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from None


def as_text(statistics: Statistics) -> str:
    """The inverse of `parse`."""
    names = (name for name, pair in STATISTICS.items() if pair == statistics)
    return next(names, f"{statistics[0]}, {statistics[1]}")


def of_ops(ops: str) -> Statistics | None:
    """The statistics of the op `normalize` in a chain with values in place of all names; None if there is no such op.

    Raises:
      ValueError: the chain, or the arguments of the op, cannot be read.
    """
    given = arguments_of(ops, "normalize")
    if given is None:
        return None
    return _of_arguments([ast.literal_eval(given[name]) for name in SIGNATURES["normalize"] if name in given])


def _of_arguments(values: list[Any]) -> Statistics:
    first = values[0] if values else "inception"  # the default of the op
    if isinstance(first, str):
        return parse(first)
    return _checked(_of_channels(values) if len(values) == 2 else first)


def _of_channels(values: list[Any]) -> list[Any]:
    """Mean and deviation, of which one number stands for all channels: those of the other, or three."""
    channels = next((len(value) for value in values if isinstance(value, list | tuple)), 3)
    return [value if isinstance(value, list | tuple) else (value,) * channels for value in values]


def _checked(pair: Any) -> Statistics:
    mean, std = (tuple(map(float, numbers)) for numbers in pair)
    if not (len(mean) == len(std) >= 1 and all(map(math.isfinite, mean + std)) and min(std) > 0):
        raise ValueError(f"{pair} is no mean and deviation of channels")
    return mean, std
