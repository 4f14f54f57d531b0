"""The preprocessing language: `"decode|flip_lr|two_views(224, 112)|blockwise_mask(75, 16, 14)"` becomes two functions.

The text is a chain of registered ops (`ops.registry`), whose arguments are Python literals. Every op gets a seed of its
own, so that two random ops never share a random number.
"""

import ast
import difflib
import importlib
import inspect
import itertools
import pkgutil
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from beit_jax.data import ops as op_files
from beit_jax.data.features import LABEL_MAP, Features
from beit_jax.data.op_chain import split_chain
from beit_jax.data.ops.registry import OPS, Op
from beit_jax.errors import UserError

RESIZING = ("resize", "resize_small", "random_resized_crop", "two_views", "two_views_center")
SEEDS_PER_OP = 2**40  # more than the examples of any epoch, so that the seeds of two ops are never equal


class Program(NamedTuple):
    """A chain in two: `example(features, seed [2])` runs before batching, `batch(features, seeds [b, 2])` after it.

    `channels` are those that its op `decode` makes.
    """

    example: Op
    batch: Op
    channels: int = 3


class _Call(NamedTuple):
    """One op of a chain, with its arguments."""

    name: str
    args: list
    kwargs: dict
    text: str


def build_program(spec: str) -> Program:
    """The functions of a chain of ops.

    Raises:
      UserError: an unknown op, wrong arguments, or an op on single examples that follows one on batches.
    """
    calls = _read_calls(spec)
    ops = [_create_op(call) for call in calls]
    _check_order(calls)
    levels = [OPS[call.name].level for call in calls]
    first_on_batches = levels.index("batch") if "batch" in levels else len(ops)
    for call, level in zip(calls[first_on_batches:], levels[first_on_batches:], strict=True):
        if level == "example":
            batched = calls[first_on_batches].name
            raise UserError(
                f"in the ops '{spec}', {call.name} works on single images but follows {batched}, which works on "
                f"batches; move {batched} after {call.name}"
            )
    channels = calls[0].kwargs.get("channels", 3) if calls[0].name == "decode" else 3
    parts = _chain(ops[:first_on_batches], first=0), _chain(ops[first_on_batches:], first=first_on_batches)
    return Program(*parts, channels)


def _check_order(calls: list[_Call]) -> None:
    """Raises UserError for an op that resizes what is normalized already: levels would not be those of Pillow."""
    names = [call.name for call in calls]
    after = names[names.index("normalize") :] if "normalize" in names else []
    if late := [name for name in after if name in RESIZING]:
        raise UserError(
            f"{late[0]} found float32 pixels to resize, which are normalized; put it between decode and normalize"
        )


def random_ops(spec: str) -> list[str]:
    """The names of the ops in a chain that draw random numbers."""
    return [call.name for call in _read_calls(spec) if call.name in OPS and OPS[call.name].random]


def label_table(spec: str) -> np.ndarray:
    """What a chain makes of each value that a label map may store, uint8 `[256]`; resizing and cropping aside."""
    features = {LABEL_MAP: tf.reshape(tf.range(256), [256, 1, 1])}
    features[LABEL_MAP] = tf.cast(features[LABEL_MAP], tf.uint8)
    for call in _read_calls(spec):
        if call.name in OPS and OPS[call.name].relabels:
            features = _create_op(call)(features, tf.zeros([2], tf.int64))
    return features[LABEL_MAP].numpy().ravel()


def ops_on_examples(spec: str) -> list[str]:
    """The ops of a chain that run before batching, as they are written."""
    calls = itertools.takewhile(lambda call: OPS[call.name].level != "batch", _read_calls(spec))
    return [call.text for call in calls]


def without_image(program: Program, name: str) -> Program:
    """The program without one of its images: it is not computed, and ops on batches see a black pixel in its place."""

    def example(features: Features, seed: tf.Tensor) -> Features:
        features = program.example(features, seed)
        if name in features:
            features[name] = tf.zeros([1, 1, 3], features[name].dtype)
        return features

    def batch(features: Features, seeds: tf.Tensor) -> Features:
        features = program.batch(features, seeds)
        return {key: value for key, value in features.items() if key != name}

    return program._replace(example=example, batch=batch)


def pixel_ops(spec: str) -> str:
    """What the pixels depend on in a chain: the chain with uniform spaces and the word `mask` for every mask op."""
    return "|".join("mask" if call.name.endswith("_mask") else call.text for call in _read_calls(spec))


def _load_op_files() -> None:
    for module in pkgutil.iter_modules(op_files.__path__):
        importlib.import_module(f"{op_files.__name__}.{module.name}")


def _read_calls(spec: str) -> list[_Call]:
    """The ops of a chain, which is parsed as a Python expression with the operator `|`."""
    _load_op_files()
    try:
        return [_read_call(node, spec) for node in split_chain(spec)]
    except SyntaxError as error:
        raise UserError(f"cannot read the ops '{spec}': {error.msg}; expected op|op(argument, ...)|...") from None


def _read_call(node: ast.expr, spec: str) -> _Call:
    text = ast.unparse(node)
    if isinstance(node, ast.Name):
        return _Call(node.id, [], {}, text)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise UserError(f"in the ops '{spec}', '{text}' is no op; expected name or name(argument, ...)")
    try:
        args = [ast.literal_eval(arg) for arg in node.args]
        kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
    except ValueError:
        raise UserError(
            f"in the ops '{spec}', '{text}' has arguments that are not literals; expected numbers, quoted names and "
            "tuples of them (`config.fill_in_sizes` puts numbers in place of the names of sizes)"
        ) from None
    return _Call(node.func.id, args, kwargs, text)


def _create_op(call: _Call) -> Op:
    if call.name not in OPS:
        near = difflib.get_close_matches(call.name, OPS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the ops are {', '.join(sorted(OPS))}"
        raise UserError(f"there is no op named {call.name}; {hint}")
    factory = OPS[call.name].factory
    try:
        return factory(*call.args, **call.kwargs)
    except (TypeError, ValueError) as error:
        found = ", ".join([*map(repr, call.args), *(f"{key}={value!r}" for key, value in call.kwargs.items())])
        expected = ", ".join(map(str, inspect.signature(factory).parameters.values()))
        raise UserError(f"found {call.name}({found}), expected {call.name}({expected}): {error}") from None


def _chain(ops: list[Op], first: int) -> Op:
    def run(features: Features, seed: tf.Tensor) -> Features:
        for index, op in enumerate(ops, start=first):
            features = op(features, seed + tf.constant([0, index * SEEDS_PER_OP], tf.int64))
        return features

    return run
