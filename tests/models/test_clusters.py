"""k-means over batches beside scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans, MiniBatchKMeans

from beit_jax.models import clusters


def blobs(seed, centres, count):
    """Vectors around centres that lie far from each other, in random order."""
    rng = np.random.default_rng(seed)
    vectors = centres[rng.permutation(np.arange(count) % len(centres))] + rng.normal(0, 0.3, (count, centres.shape[1]))
    return vectors.astype(np.float32)


@pytest.fixture(scope="module")
def centres():
    return np.random.default_rng(0).normal(0, 5, (6, 4)).astype(np.float32)


def test_later_batches_move_means_as_scikit_learn_does(centres):
    means = centres + np.float32(0.5)
    expected = MiniBatchKMeans(6, init=means, n_init=1, reassignment_ratio=0.0)
    found = {"vectors": jnp.asarray(means), "usage": jnp.zeros(6), "is_made": jnp.ones(1)}
    for seed in (1, 2, 3):
        batch = blobs(seed, centres, 40)
        expected.partial_fit(batch)
        found = jax.jit(clusters.update)(found, jax.random.key(0), jnp.asarray(batch))
        np.testing.assert_allclose(found["vectors"], expected.cluster_centers_, atol=1e-5)
    assert float(found["usage"].sum()) == 120


def test_the_first_batch_gives_means_as_scikit_learn_does(centres):
    batch, key = blobs(1, centres, 60), jax.random.key(3)
    found = jax.jit(clusters.update)(clusters.new_clusters(6, 4), key, jnp.asarray(batch))
    start = np.asarray(clusters.spread_out(key, jnp.asarray(batch), 6))
    expected = KMeans(6, init=start, n_init=1, max_iter=300, tol=0.0).fit(batch)
    np.testing.assert_allclose(found["vectors"], expected.cluster_centers_, atol=1e-5)
    np.testing.assert_array_equal(found["usage"], np.bincount(expected.labels_, minlength=6))
    assert found["is_made"].tolist() == [1]


def test_no_vector_is_drawn_twice_while_others_are_left():
    """As with patches of which most are the same background."""
    vectors = jnp.concatenate([jnp.zeros((500, 2)), jnp.eye(2), 2 * jnp.eye(2)])
    for seed in range(5):
        found = clusters.spread_out(jax.random.key(seed), vectors, 5)
        assert {tuple(row) for row in np.asarray(found)} == {(0, 0), (1, 0), (0, 1), (2, 0), (0, 2)}
    assert np.asarray(clusters.spread_out(jax.random.key(0), vectors, 8)).shape == (8, 2)  # some of them twice


def test_a_mean_without_vectors_stays():
    state = {"vectors": jnp.asarray([[0.0, 0.0], [9.0, 9.0]]), "usage": jnp.ones(2), "is_made": jnp.ones(1)}
    found = clusters.update(state, jax.random.key(0), jnp.asarray([[1.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(found["vectors"], [[1 / 3, 1 / 3], [9, 9]], rtol=1e-6)
    np.testing.assert_array_equal(found["usage"], [3, 1])
