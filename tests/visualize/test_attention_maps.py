"""Attention maps: geometry and distances against computations by hand."""

import warnings

import jax
import numpy as np
import pytest
from beit_references import random_parameters

from beit_jax.errors import UserError
from beit_jax.models import vit
from beit_jax.visualize import attention, images
from beit_jax.visualize.figures import draw_distances

TOP = np.array([0.988362, 0.998364, 0.644924])  # of the colours
GRIDS = [(3, 3), (2, 5), (5, 2)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("patch", [1, 4])
def test_a_peak_lands_on_the_pixels_of_its_patch(grid, patch):
    image = np.full((grid[0] * patch, grid[1] * patch, 3), 90, np.uint8)
    for row in range(grid[0]):
        for column in range(grid[1]):
            peak = np.zeros(grid)
            peak[row, column] = 1.0
            light = attention.overlay(image, peak).astype(int).sum(axis=-1)
            expected = np.zeros(image.shape[:2], bool)
            for y in range(image.shape[0]):
                for x in range(image.shape[1]):
                    expected[y, x] = (y // patch, x // patch) == (row, column)
            assert light[expected].min() > light[~expected].max()
            assert len(set(light[expected])) == len(set(light[~expected])) == 1


def test_an_overlay_is_the_stated_mixture():
    """Of 8 patches: the image in dark grey where there is no attention, and nothing of it at the top of the scale."""
    image = np.arange(2 * 16 * 3, dtype=np.uint8).reshape(2, 16, 3) * 2
    out = attention.overlay(image, np.array([[0.0, 0.8, 0.2, 0, 0, 0, 0, 0]]))
    grey = 0.08 + 0.16 * image[:, :2].mean(axis=-1, keepdims=True) / 255
    np.testing.assert_array_equal(out[:, :2], np.round(255 * (np.array([0.001462, 0.000466, 0.013866]) + grey)))
    np.testing.assert_array_equal(out[:, 2:4], np.full((2, 2, 3), np.round(255 * TOP)))
    with pytest.raises(ValueError, match="multiples of the map's 1x3"):
        attention.overlay(image, np.ones((1, 3)))


def test_colour_tells_attention_from_brightness():
    """A white patch that is not attended to is darker than black ones that are, and grey."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = 255
    out = attention.overlay(image, np.array([[0.0, 0.5], [0.0, 0.5]])).astype(int)
    assert out[:, :4].sum(axis=-1).max() < out[:, 4:].sum(axis=-1).min()
    assert np.ptp(out[:, :4], axis=-1).max() < 5 and np.ptp(out[:, 4:], axis=-1).min() > 80
    coloured = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    lightest = attention.overlay(np.full_like(image, 255), np.eye(2) / 2).astype(int)
    darkest = attention.overlay(np.zeros_like(image), np.eye(2) / 2).astype(int)
    among = attention.overlay(coloured, np.eye(2) / 2).astype(int)
    assert (lightest - darkest).max() <= 41 and (darkest <= among).all() and (among <= lightest).all()


def test_a_map_that_is_nearly_uniform_looks_flat():
    """Its noise, which would fill a scale to its own maximum, moves no colour by more than a tenth."""
    image, noise = np.full((14, 14, 3), 128, np.uint8), np.random.default_rng(0).random((14, 14))
    values = (1 + 0.1 * noise) / (1 + 0.1 * noise).sum()
    out = attention.overlay(image, values).astype(int)
    assert np.ptp(out, axis=(0, 1)).max() < 26 and out.max() < 128
    assert attention.strength(values) == "max 0.53% (uniform 0.51%)"
    assert attention.strength(np.full((1, 1), 1.0)) == "max 100% (uniform 100%)"
    assert attention.strength(np.array([[0.0, 0.125, 0.875, 0]])) == "max 87.5% (uniform 25%)"
    # At four times uniform attention and above, the maximum is the top.
    for peak in (4 / 196, 0.5):
        values = np.full((14, 14), (1 - peak) / 195)
        values[3, 5] = peak
        np.testing.assert_array_equal(attention.overlay(image, values)[3, 5], np.round(255 * TOP))
    values[3, 5], values[0, 0] = 2 / 196, 0.5
    assert (attention.overlay(image, values)[3, 5] < 255 * TOP).all()


@pytest.mark.parametrize("patch", [(0, 0), (1, 2), (2, 3)])
def test_a_frame_lies_around_its_patch(patch):
    picture = np.random.default_rng(0).integers(1, 255, (30, 40, 3), np.uint8)
    out = attention.outline(picture, patch, (3, 4))
    distance = [
        [max(10 * patch[0] - y, y - 10 * patch[0] - 9, 10 * patch[1] - x, x - 10 * patch[1] - 9) for x in range(40)]
        for y in range(30)
    ]
    for y, x in np.ndindex(30, 40):
        grey = {1: 0, 2: 255, 3: 255, 4: 0}.get(distance[y][x])
        np.testing.assert_array_equal(out[y, x], picture[y, x] if grey is None else [grey] * 3)


@pytest.mark.parametrize("grid", GRIDS)
def test_maps_belong_to_their_query_and_leave_out_the_class_token(grid):
    count = grid[0] * grid[1]
    weights = np.random.default_rng(0).random((2, count + 1, count + 1)).astype(np.float32)
    maps = attention.between_patches(weights, grid)
    assert maps.shape == (2, *grid, *grid)
    for row, column in [(0, 0), (grid[0] - 1, 1), (1, grid[1] - 1)]:
        line = weights[1, 1 + row * grid[1] + column, 1:]
        expected = [[line[r * grid[1] + c] / line.sum() for c in range(grid[1])] for r in range(grid[0])]
        np.testing.assert_allclose(maps[1, row, column], expected, rtol=1e-6)


def test_distance_by_hand():
    """Two by three patches of 10 pixels; all attend to the top left one, to themselves, or to all alike."""
    weights = np.zeros((1, 2, 3, 7, 7), np.float32)
    weights[..., 0] = 0.5  # on the class token, which does not count
    weights[:, :, 0, 1:, 1] = 0.5
    weights[:, :, 1, 1:, 1:] = 0.5 * np.eye(6)
    weights[:, :, 2, 1:, 1:] = 0.5 / 6
    found = attention.mean_distance(weights, (2, 3), 10)
    to_corner = 10 * (0 + 1 + 2 + 1 + 2**0.5 + 5**0.5) / 6
    pairs = [((a // 3 - b // 3) ** 2 + (a % 3 - b % 3) ** 2) ** 0.5 for a in range(6) for b in range(6)]
    np.testing.assert_allclose(found, [[to_corner, 0.0, 10 * sum(pairs) / 36]], rtol=1e-6)
    weights[0, 1, 0, 1:, 1], weights[0, 1, 0, 1:, 1:] = 0.0, 0.5 * np.eye(6)  # the second image: to themselves
    np.testing.assert_allclose(attention.mean_distance(weights, (2, 3), 10)[0, 0], to_corner / 2, rtol=1e-6)


@pytest.mark.parametrize("relative_position", ["shared", "per_block", "none"])
def test_weights_of_every_block(relative_position):
    """Those of the first block against NumPy; shapes, sums and other rows for other images."""
    encoder = vit.Encoder(8, 3, 2, 4, relative_position=relative_position, layer_scale=0.0, drop_path=0.5)
    pixels = np.random.default_rng(0).standard_normal((2, 8, 12, 3)).astype(np.float32)
    params = jax.eval_shape(encoder.init, jax.random.key(0), pixels)["params"]
    params = random_parameters(params)
    weights = attention.attention_weights(encoder, params, pixels)
    assert weights.shape == (3, 2, 2, 7, 7) and weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-5)
    assert np.abs(weights[0] - weights[1]).max() > 1e-3 and np.abs(weights[:, 0] - weights[:, 1]).max() > 1e-3

    p = jax.tree.map(np.asarray, params)
    patches = pixels.reshape(2, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 48)
    x = patches @ p["patch_embed"]["kernel"].reshape(48, 8) + p["patch_embed"]["bias"]
    x = np.concatenate([np.broadcast_to(p["cls_token"], (2, 1, 8)), x], axis=1)
    block = jax.tree.map(lambda leaf: leaf[0], p["blocks"])
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * block["norm1"]["scale"] + block["norm1"]["bias"]
    query, key, _ = np.einsum("bnd,dhic->ibhnc", x, block["attn"]["qkv"]["kernel"].reshape(8, 2, 3, 4))
    logits = np.einsum("bhqc,bhkc->bhqk", query + block["attn"]["q_bias"][:, None], key) / 2
    if relative_position != "none":
        owner = p if relative_position == "shared" else block["attn"]
        table, indices = owner["relative_position"]["table"], [divmod(i, 3) for i in range(6)]
        for i, (row, column) in enumerate(indices):
            for j, (other_row, other_column) in enumerate(indices):
                logits[:, :, i + 1, j + 1] += table[(row - other_row + 1) * 5 + column - other_column + 2]
        logits[:, :, 0, 1:] += table[-3][:, None]
        logits[:, :, 1:, 0] += table[-2][:, None]
        logits[:, :, 0, 0] += table[-1]
    expected = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(weights[0], expected / expected.sum(-1, keepdims=True), atol=1e-5)


def test_points_fall_on_patches_of_what_the_model_sees():
    """A picture of 100x60 pixels, of which a square of 60 is seen, from x = 20 on."""
    box = images.central_box((60, 100), (24, 24))
    assert box == (20.0, 0.0, 80.0, 60.0)
    for point, patch in {(20, 0): (0, 0), (79.9, 59): (5, 5), (30, 0): (0, 1), (29.9, 9.9): (0, 0)}.items():
        assert attention.patch_at(point, box, (6, 6)) == patch
    for picture, size in (((375, 500), (320, 480)), ((457, 657), (224, 224)), ((900, 1100), (224, 224))):
        left, top, right, bottom = images.central_box(picture, size)  # Pillow refuses what rounding puts outside
        assert 0 <= left < right <= picture[1] and 0 <= top < bottom <= picture[0]
    assert images.central_box((60, 100), (20, 10)) == (35.0, 0.0, 65.0, 60.0)
    assert images.central_box((60, 100), (10, 20)) == (0.0, 5.0, 100.0, 55.0)
    for point in [(19.9, 5), (80, 5), (30, 60), (30, -1)]:
        with pytest.raises(UserError, match=r"expected x from 20 to 80 and y from 0 to 60"):
            attention.patch_at(point, box, (6, 6))


def test_chosen_points_have_contrast_and_lie_apart():
    image = np.zeros((64, 96, 3), np.uint8)
    for row, column in [(3, 3), (3, 8), (6, 5)]:  # chequered patches of 8 pixels
        image[8 * row : 8 * row + 8 : 2, 8 * column : 8 * column + 8] = 255
    chosen = attention.salient_patches(image, (8, 12), 3)
    for row, column in [(3, 3), (3, 8), (6, 5)]:
        assert min(max(abs(r - row), abs(c - column)) for r, c in chosen) <= 1
    assert len(set(attention.salient_patches(np.zeros((8, 8, 3), np.uint8), (2, 2), 9))) == 4


def test_one_patch_alone():
    weights = np.full((2, 1, 1, 2, 2), 0.5, np.float32)
    distances = attention.mean_distance(weights, (1, 1), 4)
    assert distances.tolist() == [[0.0], [0.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_distances(distances, 0.0).startswith(b"\x89PNG")
    np.testing.assert_array_equal(attention.between_patches(weights, (1, 1)), np.ones((2, 1, 1, 1, 1, 1, 1)))
    assert attention.salient_patches(np.zeros((4, 4, 3), np.uint8), (1, 1)) == [(0, 0)]
