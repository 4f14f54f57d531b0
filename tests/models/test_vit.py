import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beit_references import random_parameters

from beit_jax.errors import UserError
from beit_jax.models import block, stack, vit
from beit_jax.models.initializers import STDDEV

WIDTH, DEPTH, HEADS, PATCH, GRID = 16, 3, 2, 4, (3, 2)
FIELDS = dict(width=WIDTH, depth=DEPTH, heads=HEADS, patch_size=PATCH, mask_token=True, absolute_positions=True)


def encoder(**fields):
    return vit.Encoder(**(FIELDS | dict(relative_position="per_block") | fields))


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (2, GRID[0] * PATCH, GRID[1] * PATCH, 3))


@pytest.fixture(scope="module")
def mask():
    return jnp.array([[[1, 0], [0, 0], [1, 1]], [[0, 0], [0, 1], [0, 0]]], bool)


@pytest.fixture(scope="module")
def params(images):
    return random_parameters(jax.eval_shape(encoder().init, jax.random.key(0), images)["params"])


def value_and_gradients(forward, params):
    """A scalar that depends on every token in a different way, and its gradients."""

    def scalar(params):
        out = forward(params)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32).reshape(out.shape)))

    return jax.jit(jax.value_and_grad(scalar))(params)


def assert_trees_close(got, expected, atol=2e-4):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4), got, expected)


def by_hand(params, images, mask):
    """The encoder as a Python loop over slices of the stacked parameters, on a convolution for the patches."""
    patches = jax.lax.conv_general_dilated(
        images, params["patch_embed"]["kernel"], (PATCH, PATCH), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = patches + params["patch_embed"]["bias"][None, None, None]
    x = jnp.where(mask[..., None], params["mask_token"][None], x).reshape(len(images), -1, WIDTH)
    x = jnp.concatenate([jnp.tile(params["cls_token"], (len(images), 1, 1)), x], axis=1) + params["pos_embed"]
    module = block.Block(HEADS, 4, GRID, 0.1, False, False, 1e-6, jax.nn.initializers.normal(STDDEV))
    for i in range(DEPTH):
        layer = stack.Layer(jnp.int32(i), jnp.float32(0))
        x, _ = module.apply({"params": jax.tree.map(lambda p, i=i: p[i], params["blocks"])}, x, layer, None)
    mean, variance = jnp.mean(x, axis=-1, keepdims=True), jnp.var(x, axis=-1, keepdims=True)
    normed = (x - mean) / jnp.sqrt(variance + 1e-6)
    return normed * params["norm"]["scale"][None, None] + params["norm"]["bias"][None, None]


@pytest.fixture(scope="module")
def loop(params, images, mask):
    return value_and_gradients(lambda p: by_hand(p, images, mask), params)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"unroll": DEPTH},
        pytest.param({"unroll": 2}, marks=pytest.mark.slow),
        {"remat": "full"},
        {"remat": "dots_with_no_batch_dims_saveable"},
        pytest.param({"remat": "full", "unroll": DEPTH}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_scan_and_remat_change_no_number(fields, params, images, mask, loop):
    model = encoder(**fields)
    assert_trees_close(value_and_gradients(lambda p: model.apply({"params": p}, images, mask), params), loop)


def value_and_gradients_of_training(model, params, images):
    """At a high rate of stochastic depth, with one key."""
    rngs = {"drop_path": jax.random.key(5)}
    return value_and_gradients(lambda p: model.apply({"params": p}, images, train=True, rngs=rngs), params)


@pytest.fixture(scope="module")
def dropping(params, images):
    return value_and_gradients_of_training(encoder(drop_path=0.6), params, images)


@pytest.mark.parametrize(
    "fields",
    [pytest.param({"unroll": DEPTH}, marks=pytest.mark.slow), {"remat": "full"}, {"remat": "dots_saveable"}],
    ids=str,
)
def test_the_same_blocks_are_dropped_whatever_scan_and_remat(fields, params, images, dropping):
    assert_trees_close(value_and_gradients_of_training(encoder(drop_path=0.6, **fields), params, images), dropping)


def test_parameters_have_one_layout(images):
    shapes = [
        jax.eval_shape(encoder(**fields).init, jax.random.key(0), images)
        for fields in ({}, {"unroll": DEPTH}, {"remat": "full"}, {"dtype": jnp.bfloat16})
    ]
    assert all(tree == shapes[0] for tree in shapes)
    assert set(shapes[0]["params"]["blocks"]) == {"norm1", "attn", "gamma_1", "norm2", "mlp", "gamma_2"}
    assert {leaf.shape[0] for leaf in jax.tree.leaves(shapes[0]["params"]["blocks"])} == {DEPTH}
    assert shapes[0]["params"]["patch_embed"]["kernel"].shape == (PATCH, PATCH, 3, WIDTH)


def test_drop_path_in_the_stack(params, images):
    """At a rate near 1 the last block is left out, the first, whose rate is 0, stays."""
    model = encoder(drop_path=1 - 1e-6)
    rngs = {"drop_path": jax.random.key(0)}
    trained = model.apply({"params": params}, images, train=True, all_layers=True, rngs=rngs)
    evaluated = model.apply({"params": params}, images, all_layers=True)
    np.testing.assert_allclose(trained[0], evaluated[0], atol=1e-5)
    np.testing.assert_array_equal(trained[2], trained[1])
    assert np.abs(evaluated[2] - evaluated[1]).max() > 0.1


def test_only_stochastic_depth_needs_an_rng(params, images):
    np.testing.assert_array_equal(
        encoder(drop_path=0.5).apply({"params": params}, images),
        encoder().apply({"params": params}, images, train=True),
    )


def test_masked_pixels_are_not_seen(params, images, mask):
    apply = jax.jit(encoder().apply)
    pixels = jnp.repeat(jnp.repeat(mask, PATCH, axis=1), PATCH, axis=2)[..., None]
    noise = jax.random.normal(jax.random.key(9), images.shape)
    out = apply({"params": params}, images, mask)
    np.testing.assert_array_equal(apply({"params": params}, jnp.where(pixels, noise, images), mask), out)
    changed = apply({"params": params}, jnp.where(pixels, images, noise), mask)
    assert np.all(np.abs(changed - out).max(axis=(1, 2)) > 0.1)
    nothing_masked = apply({"params": params}, images, jnp.zeros_like(mask))
    np.testing.assert_allclose(nothing_masked, apply({"params": params}, images), atol=1e-6)


def test_all_layers_are_the_raw_outputs_of_blocks(params, images, mask):
    outputs = encoder().apply({"params": params}, images, mask, all_layers=True)
    assert outputs.shape == (DEPTH, 2, GRID[0] * GRID[1] + 1, WIDTH)
    last = encoder(final_norm=False).apply({"params": params}, images, mask)
    np.testing.assert_allclose(outputs[-1], last, atol=1e-6)
    first = jax.tree.map(lambda p: p[:1], params["blocks"])
    one = encoder(depth=1, final_norm=False).apply({"params": {**params, "blocks": first}}, images, mask)
    np.testing.assert_allclose(outputs[0], one, atol=1e-6)


def test_attention_weights_of_all_layers(params, images):
    _, state = encoder().apply({"params": params}, images, mutable=["intermediates"])
    (weights,) = state["intermediates"]["blocks"]["attn"]["weights"]
    assert weights.shape == (DEPTH, 2, HEADS, 7, 7)


def test_bfloat16_stays_close(params, images, mask):
    exact = encoder().apply({"params": params}, images, mask)
    rounded = encoder(dtype=jnp.bfloat16).apply({"params": params}, images, mask)
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(rounded - exact).max() < 0.2


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_lowers_for_accelerators(platform, params, images, mask):
    model = encoder(dtype=jnp.bfloat16, drop_path=0.1, remat="dots_with_no_batch_dims_saveable")

    def scalar(params):
        return jnp.sum(model.apply({"params": params}, images, mask, train=True, rngs={"drop_path": jax.random.key(0)}))

    jax.jit(jax.grad(scalar)).trace(params).lower(lowering_platforms=(platform,))


def test_mistakes_are_told(params, images, mask):
    def run(model, images, mask=None):
        jax.eval_shape(model.init, jax.random.key(0), images, mask)

    with pytest.raises(UserError, match="found images of 13x8 pixels, expected multiples of the patch size 4"):
        run(encoder(), jnp.zeros((1, 13, 8, 3)))
    with pytest.raises(UserError, match="expected one of none, full, dots_saveable"):
        run(encoder(remat="everything"), images)
    with pytest.raises(UserError, match=r"found masks of shape \(2, 2, 3\), expected \(2, 3, 2\)"):
        run(encoder(), images, mask.transpose(0, 2, 1))
    with pytest.raises(ValueError, match="mask_token=True"):
        run(encoder(mask_token=False), images, mask)
