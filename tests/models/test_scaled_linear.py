import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beit_jax.models.scaled_linear import ScaledLinear


@pytest.mark.parametrize("scaled", [True, False])
def test_values_and_gradients(scaled):
    keys = jax.random.split(jax.random.key(0), 4)
    x, gamma = jax.random.normal(keys[0], (2, 3, 5)), jax.random.normal(keys[1], (4,)) if scaled else None
    layer = ScaledLinear(4, jax.nn.initializers.normal(1.0))
    params = layer.init(keys[2], x, gamma)["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (5, 4), "bias": (4,)}
    params["bias"] = jax.random.normal(keys[3], (4,))

    def plain(params, x, gamma):
        y = x @ params["kernel"] + params["bias"][None, None]
        return jnp.sum(jnp.sin(y if gamma is None else gamma[None, None] * y))

    def ours(params, x, gamma):
        return jnp.sum(jnp.sin(layer.apply({"params": params}, x, gamma)))

    arguments = (0, 1, 2) if scaled else (0, 1)
    expected, found = (jax.value_and_grad(loss, arguments)(params, x, gamma) for loss in (plain, ours))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
