"""The codebook of VQ-KD beside values of the official code, and what it does on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beit_jax.models import codebook


def rows(text):
    return np.array([[float(number) for number in row.split()] for row in text.strip().splitlines()])


def test_k_means_as_in_the_official_code():
    """Five codes, eight vectors sin(1 + 12 b + 4 c + 2 i + j), k-means from the first five of them."""
    b, c, i, j = np.meshgrid(range(2), range(3), range(2), range(2), indexing="ij")
    z = np.sin(1 + 12 * b + 4 * c + 2 * i + j).transpose(0, 2, 3, 1)  # [b, i, j, c]
    vectors = codebook.unit(jnp.asarray(z.reshape(8, 3), jnp.float32))
    means, counts = codebook.k_means(vectors[:5], vectors)
    expected = """
      .725047 -.671528  .152833
      .744062 -.060175 -.665395
     -.051685  .631399 -.773734
     -.557999  .729466 -.395622
      .313103 -.716421  .623465"""
    np.testing.assert_allclose(means, rows(expected), atol=1e-6)
    np.testing.assert_array_equal(counts, [2, 2, 2, 1, 1])
    found = codebook.quantize(means, vectors)
    np.testing.assert_array_equal(found.tokens, [0, 1, 2, 3, 4, 0, 1, 2])
    assert float(found.commitment) == pytest.approx(0.012350465, rel=1e-5)
    after = codebook.move(
        {"vectors": means, "usage": jnp.zeros(5), "is_made": jnp.ones(1)}, found.tokens, vectors, 0.99
    )
    np.testing.assert_allclose(after["vectors"], means, atol=1e-6)
    np.testing.assert_allclose(after["usage"], [0.02, 0.02, 0.02, 0.01, 0.01], rtol=1e-5)


def test_moving_averages_as_in_the_official_code():
    angles, radii = np.array([0.1, 0.3, 1.2, 1.4, 1.9, 3.0]), np.arange(1, 7)
    z = jnp.asarray(radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1), jnp.float32)
    codes = jnp.asarray([[1, 0], [0, 1], [-1, 0], [0, -1]], jnp.float32)

    def loss(z):
        found = codebook.quantize(codes, codebook.unit(z))
        return found.commitment, found

    (value, found), gradient = jax.value_and_grad(loss, has_aux=True)(z)
    assert float(value) == pytest.approx(0.0326463, rel=1e-5)
    np.testing.assert_array_equal(found.tokens, [0, 0, 1, 1, 1, 2])
    np.testing.assert_allclose(gradient[0], [-0.0016611, 0.0165558], rtol=1e-4)
    np.testing.assert_allclose(gradient[-1], [0.0005532, 0.0038808], rtol=1e-4)
    state = {"vectors": codes, "usage": jnp.zeros(4), "is_made": jnp.ones(1)}
    after = codebook.move(state, found.tokens, codebook.unit(z), 0.9)
    np.testing.assert_allclose(
        after["vectors"], [[0.999802, 0.019903], [0.007282, 0.999973], [-0.9999, 0.014125], [0, -1]], atol=1e-6
    )
    np.testing.assert_allclose(after["usage"], [0.2, 0.3, 0.1, 0], atol=1e-6)


def test_gradients_pass_straight_through():
    codes = codebook.unit(jax.random.normal(jax.random.key(0), (7, 4)))
    vectors = codebook.unit(jax.random.normal(jax.random.key(1), (5, 4)))
    weights = jax.random.normal(jax.random.key(2), (5, 4))

    def product(codes, vectors):
        return jnp.sum(codebook.quantize(codes, vectors).vectors * weights)

    of_codes, of_vectors = jax.grad(product, argnums=(0, 1))(codes, vectors)
    np.testing.assert_array_equal(of_vectors, weights)
    assert not np.any(of_codes)
    found = codebook.quantize(codes, vectors)
    np.testing.assert_allclose(found.vectors, codes[found.tokens], atol=1e-6)
    distances = np.linalg.norm(np.asarray(vectors)[:, None] - np.asarray(codes), axis=-1)
    np.testing.assert_array_equal(found.tokens, distances.argmin(1))


def test_the_first_of_equal_codes():
    codes = jnp.asarray([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert int(codebook.nearest(codes, jnp.asarray([1.0, 0.0]))) == 1


def test_k_means_runs_once():
    vectors = codebook.unit(jax.random.normal(jax.random.key(3), (40, 4)))
    fresh = codebook.new_codebook(jax.random.key(4), 6, 4)
    first = jax.jit(codebook.start_once)(fresh, jax.random.key(5), vectors)
    expected, _ = codebook.k_means(codebook.start_vectors(jax.random.key(5), vectors, 6), vectors)
    np.testing.assert_allclose(first["vectors"], expected, atol=1e-6)
    assert first["is_made"].tolist() == [1.0]
    again = jax.jit(codebook.start_once)(first, jax.random.key(6), vectors[::-1])
    np.testing.assert_array_equal(again["vectors"], first["vectors"])


def test_codes_without_vectors_stay():
    start = jnp.asarray([[1.0, 0.0], [0.0, -1.0]])
    vectors = codebook.unit(jnp.asarray([[1.0, 0.2], [1.0, 0.4]]))
    means, counts = codebook.k_means(start, vectors)
    np.testing.assert_array_equal(counts, [2, 0])
    np.testing.assert_array_equal(means[1], start[1])


def test_eight_devices_equal_one():
    vectors = codebook.unit(jax.random.normal(jax.random.key(7), (64, 4)))
    fresh, key = codebook.new_codebook(jax.random.key(8), 6, 4), jax.random.key(9)

    @jax.jit
    def step(state, vectors):
        state = codebook.start_once(state, key, vectors)
        tokens = codebook.nearest(state["vectors"], vectors)
        return codebook.move(state, tokens, vectors, 0.9), tokens

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    split = jax.device_put(vectors, jax.NamedSharding(mesh, jax.P("data")))
    whole = jax.device_put(fresh, jax.NamedSharding(mesh, jax.P()))
    (one, tokens), (eight, split_tokens) = step(fresh, vectors), step(whole, split)
    np.testing.assert_array_equal(split_tokens, tokens)
    for name in one:
        np.testing.assert_allclose(eight[name], one[name], atol=1e-6)


def test_unused_codes_become_vectors_of_the_batch():
    vectors = codebook.unit(jax.random.normal(jax.random.key(10), (30, 4)))
    codes = codebook.unit(jax.random.normal(jax.random.key(11), (3, 4)))
    key = jax.random.key(12)
    state = {"vectors": codes, "usage": jnp.asarray([20.0, 0.1, 9.0]), "is_made": jnp.ones(1)}
    after = codebook.revive(state, key, vectors, 0.05)
    np.testing.assert_array_equal(after["vectors"][jnp.array([0, 2])], codes[jnp.array([0, 2])])
    assert np.any(np.all(np.asarray(vectors) == np.asarray(after["vectors"][1]), axis=1))
    np.testing.assert_allclose(after["usage"], [20, 9.7, 9], rtol=1e-6)
    young = state | {"usage": jnp.asarray([2.0, 0.0, 0.9])}  # after a few steps, 0 says nothing
    np.testing.assert_array_equal(codebook.revive(young, key, vectors, 0.05)["vectors"], codes)
