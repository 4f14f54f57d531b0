"""The encoder that `token_precision` rounds is the tokenizer's, where nothing is rounded."""

import jax
import jax.numpy as jnp
import numpy as np

from beit_jax.benchmarks import token_precision
from beit_jax.models.dvae import DvaeEncoder


def test_without_rounding_the_tokens_are_those_of_the_tokenizer():
    encoder = DvaeEncoder(64, 8, token_precision.GROUPS, token_precision.BLOCKS)
    images = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))
    params = encoder.init(jax.random.key(0), images)["params"]
    expected = jnp.argmax(encoder.apply({"params": params}, images), -1)
    exact, rounded = (
        token_precision._tokens(params, images, kind, kind) for kind in (token_precision.FLOAT32, "bfloat16")
    )
    np.testing.assert_array_equal(exact, expected)
    assert (rounded != expected).any()
