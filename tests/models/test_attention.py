import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beit_references import random_parameters

from beit_jax.models.attention import Attention, attention_weights
from beit_jax.models.relative_position import RelativePositionBias

GRID, HEADS, WIDTH = (2, 3), 2, 8
INIT = jax.nn.initializers.normal(0.02)


def attention(grid=GRID, dtype=jnp.float32):
    return Attention(HEADS, grid, INIT, INIT, dtype)


@pytest.fixture
def tokens():
    return jax.random.normal(jax.random.key(0), (2, 7, WIDTH))


def test_parameters(tokens):
    shapes = jax.tree.map(lambda x: x.shape, attention().init(jax.random.key(0), tokens)["params"])
    assert shapes == {
        "qkv": {"kernel": (WIDTH, 3 * WIDTH)},
        "q_bias": (HEADS, 4),
        "v_bias": (HEADS, 4),
        "proj": {"kernel": (WIDTH, WIDTH), "bias": (WIDTH,)},
        "relative_position": {"table": (18, HEADS)},
    }


def test_against_loops_over_heads_and_queries(tokens):
    shared = np.asarray(jax.random.normal(jax.random.key(1), (1, HEADS, 7, 7)))
    module = attention(grid=None)
    params = random_parameters(jax.eval_shape(module.init, jax.random.key(0), tokens)["params"])
    kernel, proj = (
        params["qkv"]["kernel"].reshape(WIDTH, HEADS, 3, 4),
        params["proj"]["kernel"].reshape(HEADS, 4, WIDTH),
    )
    expected = np.zeros(tokens.shape)
    for b, x in enumerate(np.asarray(tokens, np.float64)):
        for h in range(HEADS):
            q, k, v = (x @ kernel[:, h, i] for i in range(3))
            q, v = q + params["q_bias"][h], v + params["v_bias"][h]
            for i in range(7):
                logits = k @ q[i] / np.sqrt(4) + shared[0, h, i]
                weights = np.exp(logits) / np.exp(logits).sum()
                expected[b, i] += weights @ v @ proj[h]
    got = module.apply({"params": params}, tokens, jnp.asarray(shared))
    np.testing.assert_allclose(got, expected + params["proj"]["bias"], atol=1e-5)


def test_own_and_shared_bias_add_up(tokens):
    module = attention()
    params = random_parameters(jax.eval_shape(module.init, jax.random.key(0), tokens)["params"])
    without = {**params, "relative_position": jax.tree.map(np.zeros_like, params["relative_position"])}
    bias = RelativePositionBias(HEADS, GRID).apply({"params": params["relative_position"]})
    own = module.apply({"params": params}, tokens)
    np.testing.assert_allclose(own, module.apply({"params": without}, tokens, bias), atol=1e-6)
    np.testing.assert_allclose(
        module.apply({"params": params}, tokens, bias), module.apply({"params": without}, tokens, 2 * bias), atol=1e-6
    )


def test_weights_are_sown_on_request(tokens):
    module = attention()
    params = module.init(jax.random.key(0), tokens)
    assert set(params) == {"params"}
    _, state = module.apply(params, tokens, mutable=["intermediates"])
    (weights,) = state["intermediates"]["weights"]
    assert weights.shape == (2, HEADS, 7, 7)
    np.testing.assert_allclose(jnp.sum(weights, axis=-1), 1.0, atol=1e-6)


def test_bfloat16_keeps_logits_and_softmax_in_float32(tokens):
    query = jax.random.normal(jax.random.key(2), (2, 7, HEADS, 4)).astype(jnp.bfloat16)
    assert attention_weights(query, query, None).dtype == jnp.float32
    module = attention(dtype=jnp.bfloat16)
    params = module.init(jax.random.key(0), tokens)
    out = module.apply(params, tokens)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), attention().apply(params, tokens), atol=1e-4)
    gradients = jax.grad(lambda p: jnp.sum(module.apply(p, tokens).astype(jnp.float32)))(params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))


def test_against_jax_attention(tokens):
    query, key, value = (jax.random.normal(jax.random.key(i), (2, 7, HEADS, 4)) for i in range(3))
    bias = jax.random.normal(jax.random.key(4), (1, HEADS, 7, 7))
    mixed = jnp.einsum("bhqk,bkhc->bqhc", attention_weights(query, key, bias), value)
    np.testing.assert_allclose(mixed, jax.nn.dot_product_attention(query, key, value, bias=bias), atol=1e-6)
