import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beit_jax.tasks.accuracy import is_most_likely, ranks


@pytest.mark.parametrize("shape", [(7,), (3, 5)])
def test_ranks_are_positions_in_the_sorted_order(shape):
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((*shape, 11)).astype(np.float32), rng.integers(0, 11, shape)
    found = jax.jit(ranks)(logits, labels)
    order = np.argsort(-logits, axis=-1)
    np.testing.assert_array_equal(found, np.argmax(order == labels[..., None], axis=-1))
    assert found.dtype == jnp.int32 and len(np.unique(found)) > 3


def test_ties_count_against_the_model():
    logits = jnp.array([[1.0, 3.0, 3.0, 2.0]] * 3)
    assert ranks(logits, jnp.array([1, 2, 3])).tolist() == [1, 1, 2]
    assert ranks(jnp.zeros((2, 4)), jnp.array([0, 3])).tolist() == [3, 3]
    assert is_most_likely(logits, jnp.array([1.0, 3.0, 2.0])).tolist() == [False] * 3
    assert is_most_likely(jnp.array([[1.0, 3.0, 2.0]]), jnp.array([3.0])).tolist() == [True]


def test_broken_logits_score_nothing():
    logits = jnp.array([[jnp.nan, 2.0, 1.0], [0.0, jnp.nan, 1.0], [jnp.nan] * 3])
    assert ranks(logits, jnp.array([1, 1, 0])).tolist() == [1, 2, 2]
    infinite = jnp.array([[jnp.inf, jnp.inf, 0.0], [-jnp.inf, -jnp.inf, -jnp.inf]])
    assert ranks(infinite, jnp.array([0, 2])).tolist() == [1, 2]
    for broken, label in ((logits, jnp.array([1, 1, 0])), (infinite, jnp.array([0, 2]))):
        true = jnp.take_along_axis(broken, label[:, None], axis=1)[:, 0]
        assert not is_most_likely(broken, true).any()
