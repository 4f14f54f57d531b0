import jax
import numpy as np
import pytest

from beit_jax.errors import UserError
from beit_jax.training.interpolate_positions import (
    BLOCK_TABLE,
    METHODS,
    POSITION_EMBEDDINGS,
    POSITIONS,
    SHARED_TABLE,
    TABLES,
    geometric_coordinates,
    interpolate_positions,
    spline_table,
)
from beit_jax.training.params import flatten, unflatten

# A table of the 14x14 grid, sin(0.1 k + h) in row k of head h, interpolated by the official code.
OFFICIAL = {
    47: (0.0, 0.03443745, 1.09530808, -0.96332022, -0.93171689, -0.51702266, -7.570605, -2.315785),
    63: (0.0002387, 0.02108154, 0.93994441, -0.96332022, -0.93171689, -0.51666494, -39.979938, -12.229529),
    79: (0.00008348, 0.01455897, 0.79282347, -0.96332022, -0.93171689, -0.51690001, -88.602372, -27.102725),
}
RATIOS = {31: 14.99996, 47: 22.99993, 59: 28.99995, 63: 31.00018, 79: 39.00008, 13: 13.81}


def table():
    rows, heads = np.meshgrid(np.arange(732), np.arange(2), indexing="ij")
    return np.sin(0.1 * rows + heads).astype(np.float32)


def interpolated(side, method="official"):
    loaded, target = (
        unflatten({SHARED_TABLE: table()}),
        unflatten({SHARED_TABLE: np.zeros((side**2 + 3, 2))}),
    )
    return flatten(interpolate_positions(loaded, target, method))[SHARED_TABLE]


@pytest.mark.parametrize("side", OFFICIAL)
def test_tables_are_interpolated_as_officially(side):
    out = interpolated(side)
    corner, second, next_row, centre, beside, last, sum0, sum1 = OFFICIAL[side]
    middle = side * side // 2
    found = [out[0, 0], out[1, 0], out[side, 0], out[middle, 0], out[middle + 1, 0], out[side * side - 1, 0]]
    np.testing.assert_allclose(found, [corner, second, next_row, centre, beside, last], atol=2e-7)
    np.testing.assert_allclose(out[:-3].sum(axis=0, dtype=np.float64), [sum0, sum1], atol=2e-4)
    np.testing.assert_array_equal(out[-3:], table()[-3:])


@pytest.mark.parametrize("side", RATIOS)
def test_the_farthest_distance_lies_on_the_border(side):
    np.testing.assert_allclose(geometric_coordinates(27, side)[-1], RATIOS[side], atol=5e-3 if side == 13 else 1e-5)


@pytest.mark.parametrize("method", ["official", "timm"])
def test_near_distances_keep_their_values(method):
    source, out = table()[:-3].reshape(27, 27, 2), interpolated(47, method)[:-3].reshape(47, 47, 2)
    np.testing.assert_allclose(out[22:25, 22:25], source[12:15, 12:15], atol=1e-6)


def test_the_spline_reproduces_cubics():
    """True of a spline without knots next to the ends, and of no other choice of its ends."""
    x = geometric_coordinates(27, 47)
    at = np.clip(np.arange(47.0) - 23, x[0], x[-1])
    np.testing.assert_allclose(spline_table(27, 47) @ (x**3 - 200 * x), at**3 - 200 * at, atol=1e-10)


def test_a_shared_table_becomes_one_per_block_of_another_grid():
    loaded = unflatten({SHARED_TABLE: table(), "encoder/norm/scale": np.ones(3)})
    target = unflatten({BLOCK_TABLE: np.zeros((4, 2212, 2))})
    out = flatten(interpolate_positions(loaded, target))
    assert set(out) == {BLOCK_TABLE, "encoder/norm/scale"}
    for block in out[BLOCK_TABLE]:
        np.testing.assert_array_equal(block, interpolated(47))


@pytest.mark.parametrize("matrix", [*TABLES.values(), *POSITION_EMBEDDINGS.values()])
def test_constants_stay_constant(matrix):
    np.testing.assert_allclose(matrix(27, 47).sum(axis=1), 1.0, atol=1e-9)
    np.testing.assert_allclose(matrix(27, 13).sum(axis=1), 1.0, atol=1e-9)


def test_positions_keep_the_class_token_and_a_plane():
    """A plane stays a plane away from the border, at the positions of the new cells (true of a = -0.5 only)."""
    y, x = np.meshgrid(np.arange(14.0), np.arange(14.0), indexing="ij")
    positions = np.concatenate([[[7.0]], (y + 100 * x).reshape(-1, 1)])[None].astype(np.float32)
    loaded, target = (
        unflatten({POSITIONS: positions}),
        unflatten({POSITIONS: np.zeros((1, 785, 1))}),
    )
    out = flatten(interpolate_positions(loaded, target, "timm"))[POSITIONS]
    assert out.shape == (1, 785, 1) and out.dtype == np.float32 and out[0, 0, 0] == 7.0
    grid, centres = out[0, 1:, 0].reshape(28, 28), (np.arange(28) + 0.5) / 2 - 0.5
    inside = slice(4, -4)
    np.testing.assert_allclose(grid[inside, inside], (centres[:, None] + 100 * centres)[inside, inside], rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_grid_that_is_not_square(method):
    """Rows are interpolated as for a square with as many rows, and columns too: values depend on one of them."""
    steps = np.sin(0.3 * np.arange(27.0))
    for axis, side, other in ((0, 47, 63), (1, 63, 47), (0, 27, 63)):
        values = np.broadcast_to(steps[:, None] if axis == 0 else steps, (27, 27)).reshape(-1, 1)
        loaded = unflatten({SHARED_TABLE: np.concatenate([values, [[1.0], [2.0], [3.0]]]).astype(np.float32)})

        def table_of(rows, grid, loaded=loaded):
            target = unflatten({SHARED_TABLE: np.zeros((rows + 3, 1))})
            return flatten(interpolate_positions(loaded, target, method, grid))[SHARED_TABLE]

        square = table_of(side * side, None)[:-3, 0].reshape(side, side)
        sides = (side, other) if axis == 0 else (other, side)
        found = table_of(side * other, ((sides[0] + 1) // 2, (sides[1] + 1) // 2))
        np.testing.assert_array_equal(found[-3:, 0], [1, 2, 3])
        expected = np.broadcast_to(square[:, :1] if axis == 0 else square[:1], sides)
        np.testing.assert_allclose(found[:-3, 0].reshape(sides), expected, atol=1e-6)

    positions = np.concatenate([[[7.0]], np.broadcast_to(steps[:14], (14, 14)).reshape(-1, 1)])[None].astype(np.float32)
    loaded, target = (
        unflatten({POSITIONS: positions}),
        unflatten({POSITIONS: np.zeros((1, 10 * 28 + 1, 1))}),
    )
    found = flatten(interpolate_positions(loaded, target, method, (10, 28)))[POSITIONS]
    square = flatten(interpolate_positions(loaded, unflatten({POSITIONS: np.zeros((1, 785, 1))}), method))[POSITIONS]
    assert found[0, 0, 0] == 7.0
    expected = np.broadcast_to(square[0, 1:29, 0], (10, 28))
    np.testing.assert_allclose(found[0, 1:, 0].reshape(10, 28), expected, atol=1e-6)


def test_shapes_stay_shapes():
    loaded = unflatten({SHARED_TABLE: jax.ShapeDtypeStruct((732, 2), np.float32)})
    target = unflatten({BLOCK_TABLE: jax.ShapeDtypeStruct((3, 2212, 2), np.float32)})
    assert flatten(interpolate_positions(loaded, target))[BLOCK_TABLE].shape == (3, 2212, 2)


def test_what_cannot_be_interpolated():
    with pytest.raises(UserError, match="180 cells, expected a square"):
        interpolate_positions(
            unflatten({SHARED_TABLE: np.zeros((183, 2))}),
            unflatten({SHARED_TABLE: np.zeros((732, 2))}),
        )
    with pytest.raises(UserError, match="3 distances, expected at least 4"):
        interpolate_positions(
            unflatten({SHARED_TABLE: np.zeros((12, 2))}),
            unflatten({SHARED_TABLE: np.zeros((732, 2))}),
        )
    with pytest.raises(UserError, match="1 distances, expected at least 4"):  # of shapes alone, as before a run
        interpolate_positions(
            unflatten({SHARED_TABLE: jax.ShapeDtypeStruct((4, 2), np.float32)}),
            unflatten({SHARED_TABLE: np.zeros((732, 2))}),
        )


@pytest.mark.parametrize("method", ["official", "timm", "hf"])
def test_a_grid_of_one_patch_keeps_what_is_at_distance_0(method):
    values = np.arange(9.0).reshape(3, 3)[:, :, None].repeat(3, 0).repeat(3, 1)[1:8, 1:8].reshape(49, 1)
    loaded = {SHARED_TABLE: np.concatenate([values, [[-1.0], [-2.0], [-3.0]]])}
    found = flatten(interpolate_positions(unflatten(loaded), unflatten({SHARED_TABLE: np.zeros((4, 1))}), method))
    np.testing.assert_allclose(found[SHARED_TABLE][:, 0], [4.0, -1.0, -2.0, -3.0], atol=1e-12)
