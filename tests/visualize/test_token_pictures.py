"""Tokens, codebook and predictions against the tokenizer's own decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beit_references import random_parameters

from beit_jax.models import dvae
from beit_jax.visualize import predictions, token_pictures

NET = dvae.DiscreteVAE(vocab=70, hidden=8, groups=3, blocks_per_group=1, decoder_init=6)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(NET.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jax.random.key(0), 1.0)
    return random_parameters(shapes["params"])


def apply(method, params, x):
    return jax.jit(lambda params, x: NET.apply({"params": params}, x, method=method))(params, x)


def own(params, tokens):
    """What the tokenizer decodes, in float32."""
    outputs = apply(NET.decode_tokens, params, jnp.asarray(tokens, jnp.int32))
    mu = np.asarray(outputs)[..., :3]
    return np.clip((1 / (1 + np.exp(-mu)) - 0.1) / 0.8, 0, 1)


def test_tokens_and_what_they_decode_to(params):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), np.uint8)
    tokens = token_pictures.tokens_of(NET, params, pixels)
    mapped = jnp.asarray(0.1 + 0.8 * pixels.astype(np.float32) / 255)
    logits = np.asarray(apply(NET.encode, params, mapped))
    assert tokens.shape == (2, 2, 3) and len(np.unique(tokens)) > 2
    np.testing.assert_array_equal(tokens, logits.argmax(-1))
    np.testing.assert_allclose(token_pictures.decoder(NET, params)(tokens), own(params, tokens), atol=1e-5)


def test_the_codebook_is_each_token_among_its_like(params):
    told = []
    squares = token_pictures.codebook(NET, params, told.append)
    assert squares.shape == (70, 4, 4, 3) and squares.dtype == np.uint8 and told == [64, 6]
    for code in (0, 63, 64, 69):
        middle = own(params, np.full((1, 3, 3), code))[0, 4:8, 4:8]
        assert np.abs(squares[code] - 255 * middle).max() <= 0.51
    assert len(np.unique(squares.reshape(70, -1), axis=0)) > 60


def test_the_sheet_has_every_square_in_its_place():
    squares = np.zeros((70, 4, 4, 3), np.uint8)
    squares[..., 0], squares[..., 1] = np.arange(70)[:, None, None], np.arange(16).reshape(4, 4)
    sheet = token_pictures.contact_sheet(squares)
    columns, cell = 16, 48 + 2
    assert sheet.shape == (5 * cell + 2, 22 + columns * cell + 2, 3)
    for code in (0, 15, 16, 69):
        top, left = code // columns * cell + 2, 22 + code % columns * cell + 2
        square = sheet[top : top + 48, left : left + 48]
        np.testing.assert_array_equal(square, squares[code].repeat(12, axis=0).repeat(12, axis=1))
    assert (sheet[-cell:-2, 22 + 6 * cell + 2 :] == 255).all()  # behind the last token
    assert token_pictures.sheet_columns(8192) == 128 and token_pictures.sheet_columns(32) == 8


def test_likeliest_tokens():
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32)) + 80
    order, shares = token_pictures.top_tokens(logits, 3)
    assert order.tolist() == [1, 3, 2]
    np.testing.assert_allclose(shares, [0.4, 0.3, 0.2], rtol=1e-5)


def test_tokens_in_one_place(params):
    tokens = np.arange(6, dtype=np.int32).reshape(2, 3)
    found = token_pictures.in_place(token_pictures.decoder(NET, params), tokens, (1, 2), np.array([5, 40]))
    np.testing.assert_allclose(found[0], own(params, tokens[None])[0], atol=1e-5)
    np.testing.assert_allclose(found[1], own(params, [[[0, 1, 2], [3, 4, 40]]])[0], atol=1e-5)
    assert tokens[1, 2] == 5


def test_surroundings_of_a_position():
    """Each pixel says where it lies; the outline is on the position, in the middle or at the border."""
    image = np.stack(np.meshgrid(np.arange(28), np.arange(28), [0], indexing="ij"), axis=-1)[:, :, 0]
    for position, first in {(3, 4): (1, 2), (0, 6): (0, 2), (6, 0): (2, 0)}.items():
        [(_, shown)], columns, [[(left, top, width, height, _)]] = predictions.around([("", image)], (7, 7), position)
        assert shown.shape == (20, 20, 3) and columns == 1
        assert tuple(shown[0, 0, :2]) == (4 * first[0], 4 * first[1])
        corner = shown[round(top * 20), round(left * 20), :2]
        assert tuple(corner) == (4 * position[0], 4 * position[1])
        assert (width, height) == (0.2, 0.2)


def test_near_the_middle():
    mask = np.zeros((5, 5), bool)
    mask[0, 0] = mask[4, 2] = mask[2, 3] = True
    assert predictions.near_the_middle(mask) == (2, 3)
