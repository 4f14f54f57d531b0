import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beit_references import random_parameters

from beit_jax.errors import UserError
from beit_jax.models import dvae

VOCAB = 13


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def init(model, images):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, jax.random.key(1), 1.0))["params"]


def test_published_sizes():
    model, images = dvae.DiscreteVAE(), jnp.zeros((1, 112, 112, 3))
    params = init(model, images)
    assert (size(params["encoder"]), size(params["decoder"])) == (53_786_240, 43_829_766)
    assert params["encoder"]["group_1"]["block_1"]["res_path"]["conv_1"]["kernel"].shape == (3, 3, 256, 64)
    assert "id_path" not in params["encoder"]["group_1"]["block_1"]
    assert params["decoder"]["group_1"]["block_1"]["id_path"]["kernel"].shape == (1, 1, 128, 2048)


def test_shapes_of_every_stage():
    """The official stages for 112 pixels, at 1/32 of the width."""
    model, images = dvae.DiscreteVAE(vocab=VOCAB, hidden=8, decoder_init=4), jnp.zeros((1, 112, 112, 3))
    params = init(model, images)

    def run(params, method, x):
        return model.apply({"params": params}, x, method=method, capture_intermediates=True)

    logits, state = jax.eval_shape(lambda p: run(p, model.encode, images), params)
    inner = state["intermediates"]["encoder"]
    stages = [inner[name]["__call__"][0].shape for name in ("input", "group_1", "group_2", "group_3", "group_4")]
    # Groups end before the pooling.
    assert stages == [(1, 112, 112, 8), (1, 112, 112, 8), (1, 56, 56, 16), (1, 28, 28, 32), (1, 14, 14, 64)]
    assert logits.shape == (1, 14, 14, VOCAB)

    outputs, state = jax.eval_shape(lambda p: run(p, model.decode_tokens, jnp.zeros((1, 14, 14), jnp.int32)), params)
    inner = state["intermediates"]["decoder"]
    stages = [inner[name]["__call__"][0].shape for name in ("input", "group_1", "group_2", "group_3", "group_4")]
    assert stages == [(1, 14, 14, 4), (1, 14, 14, 64), (1, 28, 28, 32), (1, 56, 56, 16), (1, 112, 112, 8)]
    assert outputs.shape == (1, 112, 112, 6)


@pytest.fixture(scope="module")
def model():
    return dvae.DiscreteVAE(vocab=VOCAB, hidden=8, groups=3, blocks_per_group=1, decoder_init=4)


@pytest.fixture(scope="module")
def images():
    return dvae.map_pixels(jax.random.uniform(jax.random.key(0), (2, 8, 12, 3)))


@pytest.fixture(scope="module")
def params(model, images):
    return random_parameters(init(model, images))


def test_tokens_are_the_likeliest(model, params):
    images = 5 * jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    logits = model.apply({"params": params}, images, method=model.encode)
    tokens = model.apply({"params": params}, images, method=model.tokens)
    assert logits.shape == (2, 2, 3, VOCAB) and logits.dtype == jnp.float32
    assert tokens.dtype == jnp.int32
    np.testing.assert_array_equal(tokens, np.argmax(logits, axis=-1))
    assert len(np.unique(tokens)) > 1


def test_looking_tokens_up_equals_decoding_one_hot_vectors(model, params):
    tokens = jax.random.randint(jax.random.key(1), (2, 2, 3), 0, VOCAB)
    looked_up = model.apply({"params": params}, tokens, method=model.decode_tokens)
    multiplied = model.apply({"params": params}, jax.nn.one_hot(tokens, VOCAB), method=model.decode)
    assert looked_up.shape == (2, 8, 12, 6)
    np.testing.assert_allclose(looked_up, multiplied, atol=1e-5)


def test_call_is_encode_draw_decode(model, images, params):
    key = jax.random.key(3)
    outputs, logits = model.apply({"params": params}, images, key, 0.7)
    np.testing.assert_allclose(logits, model.apply({"params": params}, images, method=model.encode), atol=1e-5)
    z = dvae.gumbel_softmax(key, logits, 0.7)
    np.testing.assert_allclose(outputs, model.apply({"params": params}, z, method=model.decode), atol=1e-5)


def test_gradients_reach_every_parameter(model, images, params):
    def loss(params):
        outputs, _ = model.apply({"params": params}, images, jax.random.key(3), jnp.float32(1.0), True)
        return -jnp.mean(dvae.logit_laplace_log_likelihood(images, outputs))

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert np.isfinite(gradient).all() and np.any(gradient), jax.tree_util.keystr(path)


def test_bfloat16_body_with_float32_ends(images, params):
    model = dvae.DiscreteVAE(VOCAB, 8, 3, 1, 4, dtype=jnp.bfloat16)
    outputs, logits = model.apply({"params": params}, images, jax.random.key(3), 1.0)
    assert outputs.dtype == logits.dtype == jnp.float32
    exact = dvae.DiscreteVAE(VOCAB, 8, 3, 1, 4).apply({"params": params}, images, method="encode")
    assert 0 < np.abs(logits - exact).max() < 0.1


def test_image_sizes_that_do_not_fit(model, params):
    with pytest.raises(UserError, match="found images of 8x10 pixels, expected multiples of 4"):
        model.apply({"params": params}, jnp.zeros((1, 8, 10, 3)), method=model.tokens)


@pytest.mark.parametrize(
    "module", [dvae.Conv(64, 7), dvae.Conv(64, 1), dvae.CodebookVectors(64, vocab=3)], ids=["7x7", "1x1", "codes"]
)
def test_initial_weights(module):
    params = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    kernel = np.asarray(params["kernel"])
    np.testing.assert_allclose(kernel.std(), 1 / np.sqrt(np.prod(kernel.shape[:3])), rtol=0.1)
    assert np.abs(kernel).max() > 2.3 * kernel.std()  # not truncated
    assert not np.any(params["bias"])


def test_pixels():
    pixels = jnp.linspace(0, 1, 5)
    np.testing.assert_allclose(dvae.map_pixels(pixels), [0.1, 0.3, 0.5, 0.7, 0.9], rtol=1e-6)
    np.testing.assert_allclose(dvae.unmap_pixels(dvae.map_pixels(pixels)), pixels, atol=1e-6)
    np.testing.assert_array_equal(dvae.unmap_pixels(jnp.array([0.0, 1.0])), [0.0, 1.0])


LOGITS = jnp.log(jnp.array([0.1, 0.2, 0.7], jnp.float32))


def test_gumbel_softmax_draws_from_the_distribution():
    draws = dvae.gumbel_softmax(jax.random.key(0), jnp.tile(LOGITS, (20_000, 1)), 0.5)
    np.testing.assert_allclose(jnp.sum(draws, axis=-1), 1.0, atol=1e-5)
    frequencies = np.bincount(np.argmax(draws, axis=-1)) / 20_000
    np.testing.assert_allclose(frequencies, [0.1, 0.2, 0.7], atol=0.015)


def test_gumbel_softmax_hardens_as_it_cools():
    warm, cold = (dvae.gumbel_softmax(jax.random.key(0), jnp.tile(LOGITS, (500, 1)), t) for t in (2.0, 0.01))
    assert np.median(warm.max(axis=-1)) < 0.8 < 0.99 < np.median(cold.max(axis=-1))


def test_straight_through_is_one_hot_with_the_relaxed_gradient():
    key, weights = jax.random.key(1), jnp.array([1.0, -2.0, 0.5])

    def scalar(logits, straight_through):
        return jnp.sum(dvae.gumbel_softmax(key, logits, 0.8, straight_through) * weights[None])

    logits = jnp.tile(LOGITS, (50, 1))
    hard = np.asarray(dvae.gumbel_softmax(key, logits, 0.8, straight_through=True))
    assert set(np.unique(hard)) == {0.0, 1.0}
    np.testing.assert_array_equal(hard.sum(axis=-1), 1.0)
    np.testing.assert_array_equal(hard.argmax(-1), dvae.gumbel_softmax(key, logits, 0.8).argmax(-1))
    np.testing.assert_allclose(jax.grad(scalar)(logits, True), jax.grad(scalar)(logits, False), atol=1e-6)


def test_likelihood_formula():
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 0.9, (2, 3, 4, 3))
    outputs = rng.normal(size=(2, 3, 4, 6))
    mu, b = outputs[..., :3], np.exp(outputs[..., 3:])
    density = np.exp(-np.abs(np.log(x / (1 - x)) - mu) / b) / (2 * b * x * (1 - x))
    got = dvae.logit_laplace_log_likelihood(jnp.float32(x), jnp.float32(outputs))
    np.testing.assert_allclose(got, np.log(density), atol=1e-5)


@pytest.mark.parametrize(("mu", "log_b"), [(0.0, -1.0), (1.5, -0.5), (-2.0, -2.0)])
def test_likelihood_is_a_density(mu, log_b):
    x = np.linspace(0.0, 1.0, 200_002)[1:-1]
    outputs = jnp.tile(jnp.array([mu] * 3 + [log_b] * 3, jnp.float32), (1, 1, len(x), 1))
    values = dvae.logit_laplace_log_likelihood(jnp.tile(jnp.float32(x)[None, None, :, None], (1, 1, 1, 3)), outputs)
    np.testing.assert_allclose(np.trapezoid(np.exp(values[0, 0, :, 0]), x), 1.0, atol=2e-3)


def test_reconstruction():
    outputs = jnp.zeros((1, 2, 2, 6)).at[..., 1].set(100.0).at[..., 2].set(jnp.log(0.3 / 0.7))
    np.testing.assert_allclose(dvae.reconstruction(outputs)[0, 0, 0], [0.5, 1.0, 0.25], atol=1e-6)


def test_the_layer_that_decides_between_tokens_is_precise():
    """Accelerators would by default round its float32 numbers to fewer bits."""
    model, images = (
        dvae.DiscreteVAE(vocab=VOCAB, hidden=8, decoder_init=4, dtype=jnp.bfloat16),
        jnp.zeros((1, 16, 16, 3)),
    )
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), init(model, images))
    program = jax.make_jaxpr(lambda p: model.apply({"params": p}, images, method="encode"))(params).jaxpr
    products = [equation for equation in program.eqns if equation.primitive.name == "dot_general"]
    precise = [equation for equation in products if equation.params["precision"] == (jax.lax.Precision.HIGH,) * 2]
    assert [equation.invars[0].aval.dtype for equation in precise] == [jnp.float32]
