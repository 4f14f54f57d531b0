"""Names of sizes in `data.ops`, so that a size is given once: `random_resized_crop(image_size)`.

The names stand for values that follow from other keys of the config: sizes, and `statistics` of the pixels. A config
keeps the names, also in a checkpoint; `fill_in_sizes` puts the values in their place where the ops are used.
"""

import ast
import re
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from beit_jax.config import segment, statistics
from beit_jax.config.encoder import patch_grid
from beit_jax.config.op_arguments import SIGNATURES
from beit_jax.config.pretrain import largest_mask, smallest_block, tokenizer_image_size
from beit_jax.data.op_chain import arguments_of, call, join_chain, name_of, split_chain
from beit_jax.errors import UserError, did_you_mean
from beit_jax.models.image_size import ImageSize, simplest
from beit_jax.models.pixel_statistics import STATISTICS, Statistics

OPS = ("data.ops", "data.eval_ops", "evals.ops")
CROP_FRACTION = 224 / 256  # of the resized image's shorter side, which the official evaluation crops
_FULL_SIZE = 384  # from this size on, the official evaluation does not cut off a margin

# What each name stands for, and the key whose presence says that a config has it.
SIZES: dict[str, tuple[str, Callable[[ConfigDict], Any]]] = {
    "image_size": ("model.image_size", lambda config: config.model.image_size),
    "short_side": ("model.image_size", lambda config: short_side(config.model.image_size)),
    "grid": ("model.variant", lambda config: simplest(*patch_grid(config.model))),
    "tokenizer_size": ("tokenizer.kind", tokenizer_image_size),
    "num_masked": ("num_masked", largest_mask),
    "min_block": ("num_masked", smallest_block),
    "canvas_short": ("inference.short_side", lambda config: segment.canvas(config)[0]),
    "canvas_long": ("inference.long_side", lambda config: segment.canvas(config)[1]),
    "label_canvas": ("inference.label_side", lambda config: config.inference.label_side),
    "statistics": ("data.statistics", lambda config: _by_name(statistics.of_config(config))),
}


def short_side(image_size: ImageSize) -> ImageSize:
    """To how many pixels the official evaluation resizes the shorter side before it crops the centre: 256 for 224.

    Of a rectangle, a pair: the height and width that the resized image covers.
    """
    if not isinstance(image_size, int):
        return tuple(map(short_side, image_size))
    return image_size if image_size >= _FULL_SIZE else int(image_size / CROP_FRACTION)


def _by_name(pair: Statistics) -> str | Statistics:
    """Statistics by their name, if they have one, which is shorter in ops."""
    text = statistics.as_text(pair)
    return text if text in STATISTICS else pair


def sizes_of(config: ConfigDict) -> dict[str, Any]:
    """The names that the ops of a valid config may use, and their values."""
    return {name: value(config) for name, (key, value) in SIZES.items() if _has(config, key)}


def uses_statistics(config: ConfigDict) -> bool:
    """Whether the ops of a config, or its training step, name the pixel statistics."""
    texts = (config[section][name] for section, _, name in (key.partition(".") for key in OPS) if section in config)
    return bool(config.get("device_augment", False)) or any(re.search(r"\bstatistics\b(?!\s*=)", t) for t in texts)


def fill_in_sizes(config: ConfigDict) -> ConfigDict:
    """A copy of a config with values in place of the names in its ops.

    Raises:
      UserError: a name is unknown.
    """
    config = config.copy_and_resolve_references()
    known = sizes_of(config)
    for key in OPS:
        if _has(config, key):
            section, _, name = key.partition(".")
            config[section][name] = _decoding(_replace(config[section][name], known, key), config.data)
    return config


def _decoding(ops: str, data: ConfigDict) -> str:
    """A chain whose op `decode` makes the pixels that the keys of `data` say: `decode(channels=13, max_value=1e4)`.

    Raises:
      UserError: `decode_view`, which is for RGB of 8 bits alone.
    """
    given = dict(channels=data.channels) if data.channels != 3 else {}
    given |= dict(max_value=data.max_value) if data.max_value else {}
    if not given:
        return ops
    try:
        first, *others = split_chain(ops)
    except SyntaxError:
        return ops
    said = ", ".join(f"data.{name}={value:g}" for name, value in given.items())
    if name_of(first) == "decode_view":
        raise UserError(
            f"{said} with decode_view, which is for RGB of 8 bits; write decode|two_views(...) (no fast=True)"
        )
    if name_of(first) != "decode":
        return ops
    arguments = arguments_of(first, SIGNATURES["decode"])
    for name, value in given.items():
        if name in arguments and ast.unparse(arguments[name]) not in (repr(value), f"{value:g}"):
            raise UserError(f"{said}, and the ops begin with {ast.unparse(first)}; leave out {name} there")
    filled = arguments | {name: ast.Constant(value) for name, value in given.items()}
    return join_chain([call("decode", filled), *others])


def _has(config: ConfigDict, key: str) -> bool:
    for name in key.split("."):
        if name not in config:
            return False
        config = config[name]
    return True


def _replace(ops: str, known: dict[str, Any], key: str) -> str:
    """The text of a chain of ops with values for names. What cannot be parsed stays as it is; `data` refuses it."""
    try:
        tree = ast.parse(ops.strip(), mode="eval")
    except SyntaxError:
        return ops
    arguments = [
        argument
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for argument in (*call.args, *(keyword.value for keyword in call.keywords))
    ]
    names = [node for argument in arguments for node in ast.walk(argument) if isinstance(node, ast.Name)]
    if not names:
        return ops
    for node in names:
        if node.id not in known:
            hint = did_you_mean(node.id, known) or f"; the sizes are {', '.join(known) or 'none'}"
            raise UserError(f"{key} names a size {node.id!r}, which the config does not have{hint}")
    return ast.unparse(_Fill(known).visit(tree))


class _Fill(ast.NodeTransformer):
    """Replaces the names of sizes by values, and products such as `4 * image_size` by their value."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        self._sizes = sizes

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """See `ast.NodeTransformer`."""
        return ast.Constant(self._sizes[node.id]) if node.id in self._sizes else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """See `ast.NodeTransformer`. The bars between ops are operators too, and stay."""
        self.generic_visit(node)
        values = [side.value for side in (node.left, node.right) if isinstance(side, ast.Constant)]
        if not isinstance(node.op, ast.Mult) or len(values) < 2 or int not in map(type, values):
            return node
        number, size = values if type(values[0]) is int else reversed(values)
        if type(size) is int:
            return ast.Constant(number * size)
        return ast.Constant(tuple(number * side for side in size)) if _is_pair(size) else node


def _is_pair(size: Any) -> bool:
    return isinstance(size, tuple) and [type(side) for side in size] == [int, int]
