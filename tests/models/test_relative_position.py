import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beit_jax.models.relative_position import RelativePositionBias, relative_position_index, table_rows


def test_index_of_the_official_code():
    """Values measured on the official code for 14x14 patches."""
    index = relative_position_index((14, 14))
    assert index.shape == (197, 197) and index.dtype == np.int32
    assert index[0, 0] == 731
    assert set(index[0, 1:]) == {729} and set(index[1:, 0]) == {730}
    assert set(np.diagonal(index)[1:]) == {364}
    assert [index[1, 2], index[2, 1], index[1, 15], index[15, 1]] == [363, 365, 337, 391]
    assert [index[1, 196], index[196, 1]] == [0, 728]


@pytest.mark.parametrize(("side", "rows"), [(1, 4), (14, 732), (24, 2212), (32, 3972), (40, 6244)])
def test_table_rows(side, rows):
    assert table_rows((side, side)) == rows
    assert relative_position_index((side, side)).max() == rows - 1


@pytest.mark.parametrize("grid", [(3, 5), (4, 1), (2, 2)])
def test_bias_is_the_table_at_the_offset_of_each_pair(grid):
    height, width = grid
    module, n = RelativePositionBias(heads=2, grid=grid), height * width
    initial = module.init(jax.random.key(0))["params"]["table"]
    assert not np.any(initial)
    table = np.random.default_rng(0).standard_normal(initial.shape).astype(np.float32)
    bias = module.apply({"params": {"table": table}})
    assert bias.shape == (1, 2, n + 1, n + 1) and bias.dtype == jnp.float32

    for query in range(n):
        for key in range(n):
            dy, dx = query // width - key // width, query % width - key % width
            row = (dy + height - 1) * (2 * width - 1) + dx + width - 1
            np.testing.assert_array_equal(bias[0, :, query + 1, key + 1], table[row])
    np.testing.assert_array_equal(bias[0, :, 0, 1:], np.tile(table[-3], (n, 1)).T)
    np.testing.assert_array_equal(bias[0, :, 1:, 0], np.tile(table[-2], (n, 1)).T)
    np.testing.assert_array_equal(bias[0, :, 0, 0], table[-1])
