"""Limits of foreign models, checked before anything is built of their tensors and the settings beside them.

Sizes may not be larger than the tensors allow, and numbers must make sense. What a setting of another type or another
model means is told where it is used (`settings.py`, `preprocessing.py`).
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from beit_jax.convert.read_budget import excerpt
from beit_jax.errors import Mistakes, UserError
from beit_jax.models.variants import SMALLEST_EPSILON

LARGEST_FILE = 8 << 20  # bytes; 22,000 names of classes take 3 MB
DEEPEST = 32
LARGEST_IMAGE = 8192  # pixels along a side
MOST_TENSORS, MOST_BLOCKS = 20_000, 1000
LARGEST_GRID = 64  # patches along a side; every pair of patches has an entry in the index of relative positions
LONGEST_VALUE = 1000  # characters, as it is printed
LONGEST_NUMBER = 20  # digits of the number of a class
SMALLEST, LARGEST = 1e-6, 1e6  # of the statistics of pixels, which are between 0 and 1
SIDES = {"image_size": 224, "patch_size": 16}  # with the defaults of transformers
_NAMED = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "num_channels"),
    *("image_size", "patch_size", "layer_norm_eps", "layer_scale_init_value", "drop_path_rate", "out_indices"),
    *("use_absolute_position_embeddings", "use_relative_position_bias", "use_shared_relative_position_bias"),
    *("use_mean_pooling", "resample", "do_resize", "do_rescale", "do_normalize", "do_center_crop", "size"),
    *("image_mean", "image_std", "crop_pct", "crop_mode", "interpolation", "mean", "std", "embed_dim", "depth"),
    "num_heads",
)  # the keys whose values appear in messages


def read_settings(path: Path) -> dict[str, Any]:
    """A file of settings in JSON; empty if there is none.

    Raises:
      UserError: it is too large, nested too deep, or no object in JSON.
    """
    if not path.exists():
        return {}
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path} is no file of at most {LARGEST_FILE >> 20} MiB; expected settings in JSON")
        value = parse(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({excerpt(str(error))}); download it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); check its permissions") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; expected an object with settings")
    return value


def parse(text: bytes) -> Any:
    """The value of a text in JSON.

    Raises:
      ValueError: it is not valid, or nested too deep.
    """
    too_deep = ValueError(f"nested more than {DEEPEST} deep")
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_each_once)
    except RecursionError:
        raise too_deep from None
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
    if level:
        raise too_deep
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values; readers of JSON differ in which of two values of a key they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{excerpt(next(name for name in names if names.count(name) > 1))} stands there twice")
    return found


def _inside(value: Any) -> Iterator[Any]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (inner for inner in values if isinstance(inner, dict | list))


def check_settings(
    settings: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Compares settings with what is possible, and with the shapes of the tensors that they come with.

    Args:
      settings: of a `config.json`.
      preprocessor: of a `preprocessor_config.json`.
      shapes: of the tensors, by their names.
      where: name of the checkpoint, for messages.

    Raises:
      UserError: a value that makes no sense, or is larger than the tensors allow; has a line for each.
    """
    _check_shapes(shapes, where)
    mistakes, widest = Mistakes(), max((size for shape in shapes.values() for size in shape), default=0)

    def check_of(file: str, values: Any) -> _Check:
        return _Check(values if isinstance(values, Mapping) else {}, f"{where} has {{}} in {file}", mistakes)

    _check_model(check_of("config.json", settings), _most_blocks(shapes), widest)
    check_of("config.json", settings.get("model_args"))
    _check_timm(check_of("config.json", settings.get("pretrained_cfg")))
    _check_preprocessor(check_of("preprocessor_config.json", preprocessor))
    mistakes.raise_all()


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Names and shapes tell the model where no settings do."""
    most, rows = _most_blocks(shapes), _table_rows(LARGEST_GRID)
    if len(shapes) > MOST_TENSORS:
        raise UserError(f"{where} has {len(shapes)} tensors; expected at most {MOST_TENSORS}")
    for name, shape in shapes.items():
        if 0 in shape:  # the other sizes could be any
            raise UserError(f"{where} has {name} of the shape {shape}; expected tensors that are not empty")
        if any(int(number) >= most for number in re.findall(r"(?<=\.)\d+(?=\.)", name)):
            raise UserError(f"{where} has {name}; expected numbers of blocks below {most} with {len(shapes)} tensors")
        if name.endswith("relative_position_bias_table") and shape and shape[0] > rows:
            raise UserError(
                f"{where} has {name} with {shape[0]} rows; expected at most {rows}, those of {LARGEST_GRID} x "
                f"{LARGEST_GRID} patches"
            )


def _most_blocks(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return min(len(shapes), MOST_BLOCKS)


def _table_rows(grid: int) -> int:
    return (2 * grid - 1) ** 2 + 3


class _Check:
    """Collects what is wrong with the values of a file; first, which of those that messages name are too long."""

    def __init__(self, values: Mapping[str, Any], found: str, mistakes: Mistakes):
        self.values, self._found, self._mistakes = values, found, mistakes
        for key in _NAMED:
            if len(repr(values.get(key))) > LONGEST_VALUE:
                self.wrong(key, expected=f"at most {LONGEST_VALUE} characters")

    def wrong(self, *keys: str, expected: str) -> None:
        """Adds a mistake."""
        found = ", ".join(f"{key}={excerpt(repr(self.values[key]), 80)}" for key in keys)
        self._mistakes.add(f"{self._found.format(found)}; expected {expected}")

    def between(self, key: str, low: float, high: float, what: str) -> None:
        """A number, or all numbers of a list or an object; other types are told where the value is used."""
        if not all(low <= number <= high for number in _numbers(self.values.get(key))):
            self.wrong(key, expected=what)

    def statistics(self, mean: str, std: str) -> None:
        """Mean and deviation of three channels."""
        for key, low in ((mean, -LARGEST), (std, SMALLEST)):
            value = self.values.get(key)
            if isinstance(value, list) and len(value) == len(_numbers(value)) != 3:
                self.wrong(key, expected="three numbers")
            else:
                self.between(key, low, LARGEST, f"numbers from {low:g} to {LARGEST:g}")


def _numbers(value: Any) -> list[int | float]:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    return [number for number in inner if type(number) in (int, float)]


def _check_model(check: _Check, blocks: int, widest: int) -> None:
    check.between("num_hidden_layers", 1, blocks, f"1 to {blocks}, of which each has tensors")
    for key in ("hidden_size", "num_attention_heads", "intermediate_size"):
        check.between(key, 1, widest, f"1 to {widest}, the largest size of a tensor")
    for key in ("image_size", "patch_size"):
        check.between(key, 1, LARGEST_IMAGE, f"1 to {LARGEST_IMAGE} pixels")
    check.between("layer_norm_eps", SMALLEST_EPSILON, 1.0, f"at least {SMALLEST_EPSILON:g}, such as 1e-12")
    check.between("layer_scale_init_value", -LARGEST, LARGEST, "a number such as 0.1; 0: none")
    check.between("drop_path_rate", 0.0, math.nextafter(1.0, 0.0), "a number from 0 to below 1")
    _check_positions(check, widest)
    for key in ("id2label", "label_names"):
        names = check.values.get(key)
        if isinstance(names, Mapping) and any(len(number) > LONGEST_NUMBER for number in names):
            check.wrong(key, expected=f"numbers of classes of at most {LONGEST_NUMBER} digits")


def _check_positions(check: _Check, widest: int) -> None:
    """The table of relative positions, or the positions, of a grid of patches must be among the tensors."""
    sides, patches = (_numbers(check.values.get(key, default)) for key, default in SIDES.items())
    if not (sides and patches and all(1 <= size <= LARGEST_IMAGE for size in (*sides, *patches))):
        return
    grid = max(sides) // min(patches)
    tables = ("use_relative_position_bias", "use_shared_relative_position_bias")
    relative = any(check.values.get(key) is True for key in tables)
    absolute = check.values.get("use_absolute_position_embeddings") is True
    rows = _table_rows(grid) if relative else grid**2 + 1 if absolute else 0
    most = min(widest, _table_rows(LARGEST_GRID)) if relative else widest
    given = [key for key in SIDES if key in check.values]
    if rows > most and given:
        check.wrong(*given, expected=f"a grid of patches whose positions have at most {most} rows, not {rows}")


def _check_preprocessor(check: _Check) -> None:
    for key in ("size", "crop_size"):
        check.between(key, 1, LARGEST_IMAGE, f"1 to {LARGEST_IMAGE} pixels")
    if "resample" in check.values and type(check.values["resample"]) is not int:
        check.wrong("resample", expected="the number of a filter of Pillow")
    check.statistics("image_mean", "image_std")


def _check_timm(check: _Check) -> None:
    check.statistics("mean", "std")
    for key in ("mean", "std"):
        value = check.values.get(key, [])
        if not isinstance(value, list) or len(_numbers(value)) != len(value):
            check.wrong(key, expected="three numbers")
    check.between("crop_pct", 0.05, 1.0, "a fraction from 0.05 to 1")
    if "crop_pct" in check.values and type(check.values["crop_pct"]) not in (int, float):
        check.wrong("crop_pct", expected="a fraction from 0.05 to 1")
    if not isinstance(check.values.get("interpolation", ""), str):
        check.wrong("interpolation", expected="the name of a filter")
