"""The augmentation language: `"decode|flip_lr|two_views(224, 112)|blockwise_mask(75, 16, 14)"` becomes two functions.

An op is a registered factory whose arguments are Python literals. What it returns maps features, a dict of tensors with
at least `image`, and an int64 seed to features. Ops that work on one example get a seed `[2]`, ops that work on a batch
seeds `[b, 2]`. Every op is given a seed of its own, so that two random ops never share a draw.
"""

import ast
import difflib
import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable
from typing import Literal, NamedTuple

import tensorflow as tf

from beit_jax.errors import UserError

Features = dict[str, tf.Tensor]
Op = Callable[[Features, tf.Tensor], Features]
Level = Literal["example", "batch", "any"]

SEEDS_PER_OP = 2**40  # more than the examples of any epoch, so that the ops' seeds do not meet


class Program(NamedTuple):
    """The halves of a spec: `example(features, seed [2])` before batching, `batch(features, seeds [b, 2])` after it."""

    example: Op
    batch: Op


class _Entry(NamedTuple):
    factory: Callable[..., Op]
    level: Level
    random: bool


_REGISTRY: dict[str, _Entry] = {}


def register(level: Level = "example", *, random: bool = False) -> Callable[[Callable[..., Op]], Callable[..., Op]]:
    """Registers an op factory under its function's name.

    `level` says what the op's tensors look like: one example, a batch, or "any" for arithmetic on pixels that fits
    both; such ops run on single examples, which fit into a processor's cache, unless an op on batches comes before.
    `random`: whether the op draws random numbers, so that it makes something else of an image in every epoch.
    """

    def add(factory: Callable[..., Op]) -> Callable[..., Op]:
        _REGISTRY[factory.__name__] = _Entry(factory, level, random)
        return factory

    return add


def build(spec: str) -> Program:
    """Reads a spec; raises UserError for an unknown op, bad arguments, or an op on examples after one on batches."""
    _load_op_files()
    steps = [_read_call(node, spec) for node in _split(spec)]
    ops = [_make(name, args, kwargs) for name, args, kwargs in steps]
    levels = [_REGISTRY[name].level for name, _, _ in steps]
    on_examples = [place for place, level in enumerate(levels) if level == "example"]
    on_batches = [place for place, level in enumerate(levels) if level == "batch"]
    border = on_batches[0] if on_batches else len(ops)
    if on_examples and on_examples[-1] > border:
        single, batched = steps[on_examples[-1]][0], steps[border][0]
        raise UserError(
            f"in the ops '{spec}', {single} works on single images but follows {batched}, which works on batches; "
            f"move {batched} behind {single}"
        )
    return Program(_chain(ops[:border], first=0), _chain(ops[border:], first=border))


def random_ops(spec: str) -> list[str]:
    """The names of the ops in a spec that draw random numbers."""
    _load_op_files()
    names = [_read_call(node, spec)[0] for node in _split(spec)]
    return [name for name in names if name in _REGISTRY and _REGISTRY[name].random]


def names_on_examples(spec: str) -> list[str]:
    """The names of the ops in a spec that run before batching."""
    _load_op_files()
    names = [_read_call(node, spec)[0] for node in _split(spec)]
    return list(itertools.takewhile(lambda name: _REGISTRY[name].level != "batch", names))


def without(program: Program, name: str) -> Program:
    """The program without one of its images: nothing is computed for it, and ops on batches see a black pixel."""

    def example(features: Features, seed: tf.Tensor) -> Features:
        features = program.example(features, seed)
        if name in features:
            features[name] = tf.zeros([1, 1, 3], features[name].dtype)
        return features

    def batch(features: Features, seeds: tf.Tensor) -> Features:
        features = program.batch(features, seeds)
        return {key: value for key, value in features.items() if key != name}

    return Program(example, batch)


def but_masks(spec: str) -> str:
    """The spec in one way of writing it, and without the kinds and settings of masks: all that pixels depend on."""
    _load_op_files()
    calls = [(node, _read_call(node, spec)[0]) for node in _split(spec)]
    return "|".join("mask" if name.endswith("_mask") else ast.unparse(node) for node, name in calls)


def _load_op_files() -> None:
    from beit_jax.data import ops

    for module in pkgutil.iter_modules(ops.__path__):
        importlib.import_module(f"{ops.__name__}.{module.name}")


def _split(spec: str) -> list[ast.expr]:
    """The steps of the spec, which reads as a Python expression joined by `|`."""
    try:
        node = ast.parse(spec.strip(), mode="eval").body
    except SyntaxError as error:
        raise UserError(f"cannot read the ops '{spec}': {error.msg}; expected op|op(argument, ...)|...") from None
    steps = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        steps.append(node.right)
        node = node.left
    return [node, *reversed(steps)]


def _read_call(node: ast.expr, spec: str) -> tuple[str, list, dict]:
    if isinstance(node, ast.Name):
        return node.id, [], {}
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise UserError(f"in the ops '{spec}', '{ast.unparse(node)}' is no op; expected name or name(argument, ...)")
    try:
        args = [ast.literal_eval(arg) for arg in node.args]
        kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
    except ValueError:
        raise UserError(
            f"in the ops '{spec}', '{ast.unparse(node)}' has arguments that are not literals; "
            "expected numbers, quoted names and tuples of them"
        ) from None
    return node.func.id, args, kwargs


def _make(name: str, args: list, kwargs: dict) -> Op:
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, _REGISTRY, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the ops are {', '.join(sorted(_REGISTRY))}"
        raise UserError(f"there is no op named {name}; {hint}")
    factory = _REGISTRY[name].factory
    try:
        return factory(*args, **kwargs)
    except (TypeError, ValueError) as error:
        found = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
        expected = ", ".join(map(str, inspect.signature(factory).parameters.values()))
        raise UserError(f"found {name}({found}), expected {name}({expected}): {error}") from None


def _chain(ops: list[Op], first: int) -> Op:
    def run(features: Features, seed: tf.Tensor) -> Features:
        for place, op in enumerate(ops, start=first):
            features = op(features, seed + tf.constant([0, place * SEEDS_PER_OP], tf.int64))
        return features

    return run
