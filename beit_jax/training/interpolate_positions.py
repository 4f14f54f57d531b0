"""Positions of a checkpoint, interpolated for a model with another grid of patches.

As the official `run_class_finetuning.py` does when it loads a pre-trained model: a table of relative positions that all
blocks share becomes one table per block; tables and absolute positions are interpolated. Interpolation is linear in the
values, so each method is a matrix `[new, old]` for one axis, applied to rows and columns. It is computed in float64 on
the host, once.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from beit_jax.errors import UserError
from beit_jax.training.params import flatten, unflatten

SHARED_TABLE, BLOCK_TABLE = "encoder/relative_position/table", "encoder/blocks/attn/relative_position/table"
POSITIONS, DECODER_POSITIONS = "encoder/pos_embed", "decoder/pos_embed"  # the decoder is that of VQ-KD
CLS_ROWS = 3  # at the end of a table
METHODS = ("official", "timm", "hf")


def interpolate_positions(
    loaded: Mapping[str, Any],
    target: Mapping[str, Any],
    method: str = "official",
    grid: tuple[int, int] | None = None,
    own_grid: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Gives tables and absolute positions the shapes that a model needs; passes on everything else.

    Args:
      loaded: parameters from a checkpoint, arrays or shapes (`jax.ShapeDtypeStruct`, which stay shapes).
      target: parameters or shapes of the model.
      method: "official" (tables by a cubic spline over geometrically growing distances, positions bicubic), "timm"
        (tables linear over the same distances, positions bicubic with antialiasing) or "hf" (tables bilinear over even
        distances, positions bicubic), as these libraries do.
      grid: rows and columns of the model's patches; None for a square grid.
      own_grid: of the checkpoint's patches; None for a square grid.

    Without both, positions of as many cells as the model needs stay as they are.

    Raises:
      UserError: a loaded grid that is not square and not given, or too small to be interpolated.
    """
    flat, expected = dict(flatten(loaded)), flatten(target)

    def same_width(name: str) -> bool:
        return name in flat and name in expected and flat[name].shape[-1:] == expected[name].shape[-1:]

    if SHARED_TABLE in flat and BLOCK_TABLE in expected and SHARED_TABLE not in expected:
        table, depth = flat.pop(SHARED_TABLE), expected[BLOCK_TABLE].shape[0]
        flat[BLOCK_TABLE] = _change(table, (depth, *table.shape), lambda values, shape: np.broadcast_to(values, shape))

    def stays(name: str) -> bool:
        return not (grid or own_grid) and flat[name].shape[-2] == expected[name].shape[-2]

    for name in filter(same_width, (SHARED_TABLE, BLOCK_TABLE)):
        if not stays(name):
            sides = tuple(2 * side - 1 for side in grid) if grid else _square(expected[name].shape[-2] - CLS_ROWS)
            old = tuple(2 * side - 1 for side in own_grid) if own_grid else None
            flat[name] = _interpolated(flat[name], old, sides, CLS_ROWS, TABLES[method], cls_last=True)
    for name in filter(same_width, (POSITIONS, DECODER_POSITIONS)):
        if not stays(name):
            sides = grid or _square(expected[name].shape[-2] - 1)
            flat[name] = _interpolated(flat[name], own_grid, sides, 1, POSITION_EMBEDDINGS[method], cls_last=False)
    return unflatten(flat)


def _change(leaf: Any, shape: tuple[int, ...], function: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, leaf.dtype)
    return function(np.asarray(leaf), shape).astype(leaf.dtype)


def _interpolated(
    leaf: Any,
    old: tuple[int, int] | None,
    sides: tuple[int, int],
    cls_rows: int,
    matrix: Callable[[int, int], np.ndarray],
    *,
    cls_last: bool,
) -> Any:
    """A leaf `[..., old * old + cls_rows, c]` on a grid of other sides; rows of the class token keep their values."""
    old, (height, width) = old or _square(leaf.shape[-2] - cls_rows), sides
    if old == sides:
        return leaf
    # Also where shapes alone are asked for, before a run: the grid may be too small.
    rows, columns = (np.eye(a) if b == a else matrix(a, b) for a, b in zip(old, sides, strict=True))

    def interpolate(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        border = old[0] * old[1] if cls_last else cls_rows
        first, last = np.split(values.astype(np.float64), [border], axis=-2)
        grid, cls = (first, last) if cls_last else (last, first)
        grid = grid.reshape(*grid.shape[:-2], *old, grid.shape[-1])
        grid = np.einsum("yi,xj,...ijc->...yxc", rows, columns, grid, optimize=True)
        grid = grid.reshape(*grid.shape[:-3], height * width, grid.shape[-1])
        return np.concatenate([grid, cls] if cls_last else [cls, grid], axis=-2)

    return _change(leaf, (*leaf.shape[:-2], height * width + cls_rows, leaf.shape[-1]), interpolate)


def _square(cells: int) -> tuple[int, int]:
    side = math.isqrt(max(cells, 0))
    if side * side != cells:
        raise UserError(f"found positions of {cells} cells, expected a square, or that its rows and columns are known")
    return side, side


def geometric_coordinates(old: int, new: int) -> np.ndarray:
    """Coordinates, among the new distances, of the distances -n..n of an old table: `[old]`, symmetric around 0.

    Gaps grow geometrically from 1 next to the centre, so that near distances keep their values and the farthest one
    lies on the new border. The ratio is found as officially, by 19 bisections of [1.01, 1.5], which also bounds it.
    """
    n, left, right = old // 2, 1.01, 1.5
    ratio = left
    while right - left > 1e-6:
        ratio = (left + right) / 2
        if (1.0 - ratio**n) / (1.0 - ratio) > new // 2:
            right = ratio
        else:
            left = ratio
    positive = np.cumsum(ratio ** np.arange(n))
    return np.concatenate([-positive[::-1], [0.0], positive])


def _new_distances(new: int) -> np.ndarray:
    return np.arange(new, dtype=np.float64) - new // 2


def spline_table(old: int, new: int) -> np.ndarray:
    """`[new, old]`: the cubic spline through the old values, constant beyond them (official: `interp2d`, cubic)."""
    from scipy.interpolate import CubicSpline  # half a second, for the runs that need it

    if old < 4:
        raise UserError(f"found tables of {old} distances, expected at least 4: so small a grid cannot be interpolated")
    x = geometric_coordinates(old, new)
    return CubicSpline(x, np.eye(old), bc_type="not-a-knot")(np.clip(_new_distances(new), x[0], x[-1]))


def linear_table(old: int, new: int) -> np.ndarray:
    """`[new, old]`: straight lines between the old values, constant beyond them (timm)."""
    x = geometric_coordinates(old, new)
    return np.stack([np.interp(_new_distances(new), x, unit) for unit in np.eye(old)], axis=1)


def even_table(old: int, new: int) -> np.ndarray:
    """`[new, old]`: straight lines between evenly stretched old values (transformers)."""
    return np.stack([np.interp(_centres(old, new), np.arange(old), unit) for unit in np.eye(old)], axis=1)


def _centres(old: int, new: int) -> np.ndarray:
    """Coordinates of the centres of new cells among those of the old ones, both spanning the same length: `[new]`."""
    return (np.arange(new) + 0.5) * old / new - 0.5


def bicubic(old: int, new: int) -> np.ndarray:
    """`[new, old]`: PyTorch's bicubic interpolation (a = -0.75, border repeated, no antialiasing)."""
    weights = np.zeros((new, old))
    centres = _centres(old, new)
    for step in range(-1, 3):
        source = np.floor(centres) + step
        np.add.at(weights, (np.arange(new), np.clip(source, 0, old - 1).astype(int)), _cubic(centres - source, -0.75))
    return weights


def bicubic_antialiased(old: int, new: int) -> np.ndarray:
    """`[new, old]`: PyTorch's bicubic interpolation with antialiasing (a = -0.5, widened when it reduces)."""
    scale = max(old / new, 1.0)
    weights = _cubic((_centres(old, new)[:, None] - np.arange(old)) / scale, -0.5)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


TABLES = {"official": spline_table, "timm": linear_table, "hf": even_table}
POSITION_EMBEDDINGS = {"official": bicubic, "timm": bicubic_antialiased, "hf": bicubic}
