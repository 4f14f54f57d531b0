import itertools
import math
import random

import numpy as np
import pytest
import tensorflow as tf

from beit_jax.data.block_mask_numpy import block_mask, fill_mask
from beit_jax.data.ops import mask as mask_ops
from beit_jax.data.ops import mask_ablations
from beit_jax.errors import UserError


def seeds_of(count, first=0):
    return tf.stack([tf.fill([count], tf.constant(first, tf.int64)), tf.range(count, dtype=tf.int64)], axis=1)


def official_mask(uniform, place, grid, num_masked, min_block):
    """The official rule, an attempt at a time, and the uniform numbers [blocks, 10, 4] that lead to the same mask.

    `uniform()` is in [0, 1), `place(n)` in 0..n.
    """
    mask, table = np.zeros(grid, bool), []
    while mask.sum() < num_masked:
        cap, delta = num_masked - int(mask.sum()), 0
        table.append(np.full((10, 4), 0.5))
        for attempt in range(10):
            area, aspect = uniform(), uniform()
            table[-1][attempt, :2] = area, aspect
            wanted = min_block + (cap - min_block) * area
            ratio = math.exp(math.log(0.3) + (math.log(1 / 0.3) - math.log(0.3)) * aspect)
            height, width = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
            if width < grid[1] and height < grid[0]:
                top, left = place(grid[0] - height), place(grid[1] - width)
                table[-1][attempt, 2:] = (top + 0.5) / (grid[0] - height + 1), (left + 0.5) / (grid[1] - width + 1)
                block = mask[top : top + height, left : left + width]
                delta = height * width - int(block.sum())
                if 0 < delta <= cap:
                    block[:] = True
                    break
                delta = 0
        if delta == 0:
            break
    return mask, np.array(table)


def replay(tables, grid, num_masked, min_block):
    """The graph's masks for given numbers, a batch of tables of different lengths at once."""
    draws = np.full((max(map(len, tables)) + 1, 4, len(tables), 10), 0.5)
    for index, table in enumerate(tables):
        draws[: len(table), :, index] = table.transpose(0, 2, 1)
    draws = tf.constant(draws)
    run = tf.function(mask_ops.official_blocks)
    return run(lambda block: draws[block], len(tables), grid, num_masked, min_block).numpy()


def rows_in_hex(mask):
    digits = -(-mask.shape[1] // 4)
    return " ".join(f"{int(''.join('01'[int(cell)] for cell in row), 2):0{digits}x}" for row in mask)


GOLDEN = [  # unilm beit/masking_generator.py after random.seed(seed); first mask, and the count of the second
    (0, (14, 14), 75, 16, "0000 0000 0000 3f20 3f00 3f00 3fc0 3fc0 3fc0 3fc0 3f00 3f00 3f00 3f00", 75),
    (1, (14, 14), 75, 16, "0000 0380 0380 0380 0380 0380 0381 3f8f 3f8f 3f8e 3e0e 3e0e 3e0e 0000", 75),
    (2, (14, 14), 75, 16, "0fe1 0fe0 0ff8 0ff8 03f8 003e 003e 003e 003e 003e 003e 003e 0000 0000", 74),
    (42, (14, 14), 75, 16, "0000 0000 0000 0000 3ffe 3ffe 3ffe 3ffe 3e00 3e00 1c00 1c00 1c00 1c00", 73),
    (7, (8, 8), 26, 4, "d2 df 1c 0c 00 f8 f8 00", None),
]


@pytest.mark.parametrize(("seed", "grid", "num_masked", "min_block", "rows", "second"), GOLDEN)
def test_golden_masks_of_the_reference(seed, grid, num_masked, min_block, rows, second):
    source = random.Random(seed)
    made = [official_mask(source.random, lambda n: source.randint(0, n), grid, num_masked, min_block) for _ in range(2)]
    assert rows_in_hex(made[0][0]) == rows
    assert second is None or made[1][0].sum() == second
    found = replay([table for _, table in made], grid, num_masked, min_block)
    for (expected, _), mask in zip(made, found, strict=True):
        np.testing.assert_array_equal(mask, expected)


# unilm beit2/masking_generator.py after random.seed(seed) and numpy.random.seed(seed): the patches of the second mask
# before it is filled, both masks (of one the first is not known), and numpy's next number.
EXACT = [
    (0, 75, GOLDEN[0][4], "0000 03fc 03fe 03fe 001e 001e 001e 001e 001e 001e 001e 1e1e 1e3e 001e", 0.5488135),
    (1, 75, GOLDEN[1][4], "0000 0000 0000 00fc 1ffc 1fbc 1fbc 1fbc 1e3c 003c 003c 003c 003c 003c", None),
    (2, 74, None, "0000 003c 01fc 01fc 01fc 00fc 00fc 00fe 00fe 00fe 001c 007c 0078 007c", 0.4149058),
    (
        42,
        73,
        "0000 0200 0000 0000 3ffe 3ffe 3ffe 3ffe 3e00 3e00 1c00 1c00 1c00 1c00",
        "0010 0000 0000 0000 0000 07fe 07fe 07fe 003e 01fe 01fc 05ff 007f 007f",
        0.6958128,
    ),
]


@pytest.mark.parametrize(("seed", "count", "first", "second", "following"), EXACT)
def test_golden_exact_masks_of_the_reference(seed, count, first, second, following):
    source, numpy_source = random.Random(seed), np.random.RandomState(seed)
    drawn = []

    def uniform():
        drawn.append(source.random())
        return drawn[-1]

    def place(n):
        index = source.randint(0, n)
        drawn.append((index + 0.5) / (n + 1))
        return index

    made, exact = [], []
    for _ in range(2):
        drawn.clear()
        official_mask(uniform, place, (14, 14), 75, 16)
        made.append(block_mask(iter(drawn).__next__, (14, 14), 75, 16))
        exact.append(fill_mask(made[-1], 75, lambda cells, count: numpy_source.choice(cells, count, replace=False)))
    assert made[1].sum() == count and [mask.sum() for mask in exact] == [75, 75]
    assert first is None or rows_in_hex(exact[0]) == first
    assert rows_in_hex(exact[1]) == second
    assert following is None or numpy_source.random_sample() == pytest.approx(following, abs=1e-7)


@pytest.mark.parametrize(
    ("grid", "num_masked", "min_block"),
    [
        ((14, 14), 75, 16),
        ((14, 14), 118, 4),
        ((4, 4), 6, 2),
        ((7, 20), 50, 16),
        ((32, 32), 400, 16),
        ((3, 70), 60, 4),
        ((2, 2), 1, 1),
    ],
)
def test_equal_numbers_give_equal_masks(grid, num_masked, min_block):
    source = random.Random(3)
    made = [
        official_mask(source.random, lambda n: source.randint(0, n), grid, num_masked, min_block) for _ in range(200)
    ]
    found = replay([table for _, table in made], grid, num_masked, min_block)
    np.testing.assert_array_equal(found, np.stack([mask for mask, _ in made]))


def test_target_area_reverses_its_bounds():
    uniform = tf.constant([0.0, 0.25, 1.0], tf.float64)
    assert mask_ops.target_area(uniform, 16, tf.constant(76.0, tf.float64)).numpy().tolist() == [16, 31, 76]
    assert mask_ops.target_area(uniform, 16, tf.constant(4.0, tf.float64)).numpy().tolist() == [16, 13, 4]


@pytest.mark.parametrize(("area", "sides"), [(6.25, (2, 2)), (12.25, (4, 4)), (20.25, (4, 4)), (30.25, (6, 6))])
def test_halves_round_to_the_even_side(area, sides):
    found = mask_ops.block_sides(tf.constant([area], tf.float64), tf.constant([1.0], tf.float64), (14, 14))
    assert tuple(found.numpy()[:, 0]) == sides


@pytest.mark.parametrize(
    ("height", "width", "new", "cap", "expected"),
    [(13, 13, 5, 5, True), (14, 2, 5, 9, False), (2, 14, 5, 9, False), (3, 3, 0, 9, False), (3, 3, 9, 8, False)],
)
def test_acceptable(height, width, new, cap, expected):
    sides = tf.constant([[height], [width]], tf.float64)
    new, cap = tf.constant([new], tf.float64), tf.constant([cap], tf.float64)
    assert bool(mask_ops.acceptable(sides, new, cap, (14, 14))[0]) is expected


@pytest.fixture(scope="module")
def many_masks():
    make = tf.function(mask_ops.blockwise_masks)
    return np.concatenate([make(seeds_of(5000, first)).numpy() for first in range(12)])


def test_distribution_of_the_official_generator(many_masks):
    # Expected: 40,000 masks of unilm beit/masking_generator.py.
    counts = many_masks.sum((1, 2))
    assert counts.max() == 75
    assert abs(counts.mean() - 74.475) < 0.03
    assert abs(np.mean(counts == 75) - 0.666) < 0.01
    assert abs(np.mean(counts == 74) - 0.2325) < 0.01
    assert np.percentile(counts, 0.1) in (66, 67, 68)
    share = many_masks.mean(0)
    corners = share[[0, 0, 13, 13], [0, 13, 0, 13]]
    middles = share[[0, 0, 13, 13, 6, 7, 6, 7], [6, 7, 6, 7, 0, 0, 13, 13]]
    assert np.abs(corners - 0.041).max() < 0.01
    assert np.abs(middles - 0.192).max() < 0.01
    assert np.abs(share[6:8, 6:8] - 0.717).max() < 0.01


@pytest.fixture(scope="module")
def exact_masks():
    return tf.function(mask_ops.blockwise_masks)(seeds_of(5000), exact=True).numpy()


def test_exact_masks_are_the_official_ones_with_random_patches_added(many_masks, exact_masks):
    official = many_masks[:5000]
    assert set(exact_masks.sum((1, 2))) == {75}
    assert (exact_masks | ~official).all()
    np.testing.assert_array_equal(exact_masks[official.sum((1, 2)) == 75], official[official.sum((1, 2)) == 75])
    # Each visible patch is added as often.
    added, visible = (exact_masks & ~official).astype(float), (~official).astype(float)
    expected = ((75 - official.sum((1, 2)))[:, None, None] * visible / visible.sum((1, 2), keepdims=True)).sum(0)
    np.testing.assert_allclose(added.sum(0), expected, atol=5 * np.sqrt(expected.max()))
    assert len({mask.tobytes() for mask in added}) > 500


def test_distribution_of_exact_masks(exact_masks):
    # Expected: 4,000 masks of unilm beit2/masking_generator.py.
    share = exact_masks.mean(0)
    rows = [0.138, 0.258, 0.358, 0.432, 0.480, 0.513, 0.527, 0.526, 0.511, 0.475, 0.417, 0.342, 0.248, 0.133]
    np.testing.assert_allclose(share.mean(1), rows, atol=0.02)
    np.testing.assert_allclose(share[[0, 0, 13, 13], [0, 13, 0, 13]], 0.0455, atol=0.01)
    np.testing.assert_allclose(share[[0, 0, 13, 13, 6, 7, 6, 7], [6, 7, 6, 7, 0, 0, 13, 13]], 0.20, atol=0.025)
    np.testing.assert_allclose(share[6:8, 6:8], 0.7185, atol=0.025)


def test_masks_differ(many_masks):
    # A few masks are one large block, for which there are few places.
    assert len({mask.tobytes() for mask in many_masks[:5000]}) > 4950


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (mask_ops.blockwise_masks, (75, 16)),
        (mask_ops.blockwise_masks, (75, 16, True)),
        (mask_ablations.algorithm1_masks, (0.4, 16)),
        (mask_ablations.random_masks, (75,)),
    ],
)
def test_a_mask_depends_on_its_own_seed(make, settings):
    seeds = seeds_of(16)
    together = make(seeds, (14, 14), *settings).numpy()
    assert together.shape == (16, 14, 14) and together.dtype == bool
    alone = np.concatenate([make(seeds[index : index + 1], (14, 14), *settings).numpy() for index in range(16)])
    backwards = tf.function(make)(seeds[::-1], (14, 14), *settings).numpy()[::-1]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, backwards)


def test_algorithm1_stops_above_the_ratio():
    counts = tf.function(mask_ablations.algorithm1_masks)(seeds_of(5000)).numpy().sum((1, 2))
    assert counts.min() == 79  # the first whole number above 0.4 * 196 = 78.4
    assert counts.max() <= 110
    assert np.mean(counts == 79) > 0.1


def test_random_masks_are_exact_and_even():
    masks = tf.function(mask_ablations.random_masks)(seeds_of(5000)).numpy()
    assert set(masks.sum((1, 2))) == {75}
    assert np.abs(masks.mean(0) - 75 / 196).max() < 0.03


def test_pairs_of_cells_of_random_masks_are_even():
    masks = tf.function(mask_ablations.random_masks)(seeds_of(20000), (3, 3), 4).numpy().reshape(-1, 9).astype(float)
    together = (masks.T @ masks / len(masks))[~np.eye(9, dtype=bool)]
    assert np.abs(together - 4 * 3 / (9 * 8)).max() < 0.015


def test_no_mask_hides_nothing(both_ways):
    found = both_ways(
        mask_ablations.no_mask((2, 3)), {"image": np.zeros((4, 8, 8, 3), np.uint8)}, [[0, i] for i in range(4)]
    )
    assert found["mask"].shape == (4, 2, 3) and not np.asarray(found["mask"]).any()


@pytest.mark.parametrize(
    "op",
    [
        mask_ops.blockwise_mask(5, 2, 4),
        mask_ops.blockwise_mask(5, 2, 4, exact=True),
        mask_ablations.algorithm1_mask(0.4, 2, (4, 4)),
        mask_ablations.random_mask(5, (4, 4)),
    ],
)
def test_ops_add_a_mask(both_ways, op):
    found = both_ways(op, {"image": np.zeros((3, 8, 8, 3), np.uint8)}, [[0, 1], [0, 2], [0, 3]])
    assert found["mask"].shape == (3, 4, 4)
    assert found["image"].shape == (3, 8, 8, 3)


def test_grid_and_counts_are_checked():
    wrong = [
        lambda: mask_ops.blockwise_mask(0),
        lambda: mask_ops.blockwise_mask(197),
        lambda: mask_ops.blockwise_mask(5, 0),
        lambda: mask_ops.blockwise_mask(5, 1, (0, 4)),
        lambda: mask_ablations.algorithm1_mask(1.0),
        lambda: mask_ablations.random_mask(0),
    ]
    for make in wrong:
        with pytest.raises(UserError, match=r"found|not a share"):
            make()


def test_every_cell_can_be_reached():
    for grid in itertools.product((3, 5), (4, 9)):
        masks = mask_ops.blockwise_masks(seeds_of(500), grid, 4, 2).numpy()
        assert masks.any(0).all()


@pytest.mark.parametrize(("grid", "num_masked"), [((1, 1), 1), ((2, 2), 2), ((2, 2), 4), ((4, 4), 15)])
def test_no_block_mask_is_empty(grid, num_masked):
    """Where no attempt is accepted, one patch is masked, any of them as often; all other masks stay as they are."""
    seeds = seeds_of(20_000)
    made = mask_ops.blockwise_masks(seeds, grid, num_masked, 1).numpy()
    counts = made.sum((1, 2))
    assert counts.min() == 1 and counts.max() <= num_masked
    draw = mask_ops.draws_of(seeds, mask_ops.ATTEMPTS)
    alone = mask_ops._one_patch(draw, grid).numpy()
    assert (alone.sum((1, 2)) == 1).all()
    patches = grid[0] * grid[1]
    np.testing.assert_allclose(alone.mean(0), 1 / patches, atol=4 * np.sqrt(1 / patches / 20_000))
    uniform = iter(np.random.default_rng(0).random(400_000)).__next__
    assert min(block_mask(uniform, grid, num_masked, 1).sum() for _ in range(500)) == 1


def test_a_block_is_smaller_than_its_grid():
    with pytest.raises(UserError, match=r"found min_block 2 on a grid of \(2, 2\); expected 1 to 1"):
        mask_ops.blockwise_masks(seeds_of(1), (2, 2), 4, 2)
