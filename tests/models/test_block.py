import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beit_jax.models import block, stack


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_drop_path_drops_whole_samples_and_keeps_the_expectation(rate):
    y = jnp.full((20_000, 2, 3), 2.0)
    dropped = np.asarray(block.drop_path(jax.random.key(0), y, jnp.float32(rate)))
    per_sample = dropped[:, 0, 0]
    assert np.all(dropped == per_sample[:, None, None])
    np.testing.assert_allclose(np.unique(per_sample), [0.0, 2.0 / 0.7] if rate else [2.0], rtol=1e-6)
    np.testing.assert_allclose(per_sample.mean(), 2.0, rtol=0.02)


def test_rates_rise_linearly():
    """Official values for base and large at 0.1."""
    np.testing.assert_allclose(stack.layers(12, 0.1).drop_path, np.arange(12) * 0.00909091, atol=1e-7)
    np.testing.assert_allclose(stack.layers(24, 0.1).drop_path, np.arange(24) * 0.00434783, atol=1e-7)
    np.testing.assert_array_equal(stack.layers(1, 0.1).drop_path, [0.0])
    np.testing.assert_array_equal(stack.layers(3, 0.1).index, [0, 1, 2])


def make(**fields):
    settings = dict(
        heads=2, mlp_ratio=2, grid=None, layer_scale=0.1, stochastic_depth=False, collect=False, norm_eps=1e-6
    )
    return block.Block(**(settings | fields), kernel_init=jax.nn.initializers.normal(0.02))


def test_parameters_of_layer_scale():
    x, layer = jnp.ones((1, 3, 8)), stack.Layer(jnp.int32(0), jnp.float32(0))
    params = make(layer_scale=1e-5).init(jax.random.key(0), x, layer, None)["params"]
    for gamma in ("gamma_1", "gamma_2"):
        np.testing.assert_array_equal(params[gamma], np.full(8, 1e-5, np.float32))
    assert not {"gamma_1", "gamma_2"} & set(make(layer_scale=0.0).init(jax.random.key(0), x, layer, None)["params"])


def test_small_layer_scale_survives_bfloat16():
    """A branch of 1e-5 of the tokens would vanish if tokens were bfloat16."""
    x, layer = jnp.ones((1, 3, 8)).at[0, 0, 0].set(2.0), stack.Layer(jnp.int32(0), jnp.float32(0))
    module = block.Block(2, 2, None, 1e-5, False, False, 1e-6, jax.nn.initializers.normal(1.0), jnp.bfloat16)
    params = module.init(jax.random.key(0), x, layer, None)
    out, collected = module.apply(params, x, layer, None)
    assert collected is None and out.dtype == jnp.float32
    assert np.all(out != x)


def test_the_two_branches_are_dropped_independently():
    rate = 0.5
    x, layer = jax.random.normal(jax.random.key(0), (2000, 2, 8)), stack.Layer(jnp.int32(0), jnp.float32(rate))
    module = make(stochastic_depth=True, layer_scale=1.0, collect=True)
    params = module.init({"params": jax.random.key(1), "drop_path": jax.random.key(2)}, x, layer, None)
    # With large biases at the ends the branches add nearly 1 and 100, so the sum tells which of them were kept.
    params["params"]["attn"]["proj"]["bias"] += 1.0
    params["params"]["mlp"]["fc2"]["bias"] += 100.0
    out, collected = module.apply(params, x, layer, None, rngs={"drop_path": jax.random.key(3)})
    assert collected is out
    added = np.round(np.asarray(out - x)[:, 0, 0] * rate)
    kinds, counts = np.unique(added, return_counts=True)
    np.testing.assert_array_equal(kinds, [0, 1, 100, 101])
    assert counts.min() > 400
