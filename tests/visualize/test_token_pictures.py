"""Tokens, codebook and predictions against the tokenizer's own decoding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beit_references import random_parameters
from ml_collections import ConfigDict

from beit_jax.tasks import create_tokenizer
from beit_jax.visualize import predictions, token_pictures

SIZES = dict(vocab=70, hidden=8, groups=3, blocks_per_group=1, decoder_init=6)
TOKENIZER = create_tokenizer(ConfigDict(dict(kind="dvae", **SIZES)), image_size=8)
NET = TOKENIZER.model


@pytest.fixture(scope="module")
def params():
    return random_parameters(jax.eval_shape(TOKENIZER.init, jax.random.key(0)))


@functools.partial(jax.jit, static_argnums=0)
def apply(method, params, x):
    return NET.apply({"params": params}, x, method=method)


def decoded_by_network(params, tokens):
    """What the network decodes, in float32."""
    outputs = apply("decode_tokens", params, jnp.asarray(tokens, jnp.int32))
    mu = np.asarray(outputs)[..., :3]
    return np.clip((1 / (1 + np.exp(-mu)) - 0.1) / 0.8, 0, 1)


def test_tokens_and_what_they_decode_to(params):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), np.uint8)
    tokens = token_pictures.tokens_of(TOKENIZER, params, pixels)
    mapped = jnp.asarray(0.1 + 0.8 * pixels.astype(np.float32) / 255)
    logits = np.asarray(apply("encode", params, mapped))
    assert tokens.shape == (2, 2, 3) and len(np.unique(tokens)) > 2
    np.testing.assert_array_equal(tokens, logits.argmax(-1))
    np.testing.assert_allclose(
        token_pictures.make_decoder(TOKENIZER, params)(tokens), decoded_by_network(params, tokens), atol=1e-5
    )


def test_the_codebook_is_each_token_among_its_like(params):
    told = []
    squares = token_pictures.decode_codebook(TOKENIZER, params, told.append)
    assert squares.shape == (70, 4, 4, 3) and squares.dtype == np.uint8 and told == [64, 6]
    for code in (0, 63, 64, 69):
        middle = decoded_by_network(params, np.full((1, 3, 3), code))[0, 4:8, 4:8]
        assert np.abs(squares[code] - 255 * middle).max() <= 0.51
    assert len(np.unique(squares.reshape(70, -1), axis=0)) > 60


def test_the_sheet_has_every_square_at_its_index():
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


def test_most_likely_tokens():
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32)) + 80
    order, probabilities = token_pictures.top_tokens(logits, 3)
    assert order.tolist() == [1, 3, 2]
    np.testing.assert_allclose(probabilities, [0.4, 0.3, 0.2], rtol=1e-5)


def test_tokens_at_one_position(params):
    tokens = np.arange(6, dtype=np.int32).reshape(2, 3)
    found = token_pictures.decode_replaced(
        token_pictures.make_decoder(TOKENIZER, params), tokens, (1, 2), np.array([5, 40])
    )
    np.testing.assert_allclose(found[0], decoded_by_network(params, tokens[None])[0], atol=1e-5)
    np.testing.assert_allclose(found[1], decoded_by_network(params, [[[0, 1, 2], [3, 4, 40]]])[0], atol=1e-5)
    assert tokens[1, 2] == 5


def test_surroundings_of_a_position():
    """Each pixel says where it lies; the outline is on the position, in the middle or at the border."""
    image = np.stack(np.meshgrid(np.arange(28), np.arange(28), [0], indexing="ij"), axis=-1)[:, :, 0]
    for position, first in {(3, 4): (1, 2), (0, 6): (0, 2), (6, 0): (2, 0)}.items():
        [(_, shown)], columns, [[(left, top, width, height, _)]] = predictions.crop_around(
            [("", image)], (7, 7), position
        )
        assert shown.shape == (20, 20, 3) and columns == 1
        assert tuple(shown[0, 0, :2]) == (4 * first[0], 4 * first[1])
        corner = shown[round(top * 20), round(left * 20), :2]
        assert tuple(corner) == (4 * position[0], 4 * position[1])
        assert (width, height) == (0.2, 0.2)


def test_the_most_central_masked_patch():
    mask = np.zeros((5, 5), bool)
    mask[0, 0] = mask[4, 2] = mask[2, 3] = True
    assert predictions.central_masked_patch(mask) == (2, 3)
