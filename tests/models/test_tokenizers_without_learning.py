"""k-means on pixels and on features, and random projection, beside NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from beit_jax import tasks
from beit_jax.runtime.run_once import run_once

GRID, PATCH = 4, 4


def images(count=8, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (count, 16, 16, 3)).astype(np.float32)


def patches(pixels):
    """`[b, 16, 4 * 4 * 3]` by slicing."""
    rows = [
        pixels[:, y : y + PATCH, x : x + PATCH].reshape(len(pixels), -1)
        for y in range(0, 16, PATCH)
        for x in range(0, 16, PATCH)
    ]
    return np.stack(rows, axis=1)


def nearest(vectors, codes):
    return np.argmin(((vectors[:, :, None] - codes) ** 2).sum(-1), axis=-1)


def after_a_step(kind, **teacher):
    """The task, its parameters after a step, and the images of that step."""
    config = tiny.config(kind)
    made, pixels = tasks.create_task(config), images()
    params = run_once(made.init, jax.random.key(1))
    frozen = {name: run_once(part.init, jax.random.key(2)) for name, part in made.frozen_parts.items()}
    metrics, new = jax.jit(made.loss)(params, frozen, {"image": pixels}, jax.random.key(3), jnp.int32(0))
    return made, {**params, **new}, frozen, pixels, metrics


@pytest.mark.parametrize("kind", ["kmeans", "kmeans_features", "random_projection"])
def test_tokens_are_the_nearest_codes(kind):
    made, params, frozen, pixels, metrics = after_a_step(kind)
    if kind == "kmeans":
        vectors = patches(pixels) - 0.5
    elif kind == "kmeans_features":
        features = np.asarray(made.teacher.features(frozen["teacher"], pixels))
        vectors = features / np.linalg.norm(features, axis=-1, keepdims=True)
    else:
        flat = patches(pixels).astype(np.float64)
        scaled = (flat - flat.mean(-1, keepdims=True)) / np.sqrt(flat.var(-1, keepdims=True) + 1e-6)
        vectors = scaled @ np.asarray(params["projection"], np.float64)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    codes = np.asarray(params["codebook"]["vectors"], np.float64)
    expected = nearest(vectors, codes)
    found = np.asarray(made.tokenizer.targets(params, pixels))
    np.testing.assert_array_equal(found.reshape(8, 16), expected)
    error = np.mean((vectors - codes[expected]) ** 2)
    assert float(metrics["loss"][0] / metrics["loss"][1]) == pytest.approx(error, rel=1e-4)
    valid = np.array([1, 0, 1, 1, 1, 1, 1, 0], np.float32)
    sums = made.measure(params, frozen, {"image": pixels, "valid": valid.astype(bool)})
    np.testing.assert_array_equal(sums["codes"], np.bincount(expected[valid > 0].ravel(), minlength=16))
    of_valid = np.mean((vectors - codes[expected])[valid > 0] ** 2)
    assert float(sums["loss"][0] / sums["loss"][1]) == pytest.approx(of_valid, rel=1e-4)


def test_tokens_at_positions():
    made, params, _, pixels, _ = after_a_step("kmeans")
    positions = np.array([[3, 0], [15, 7]], np.int32)
    every = np.asarray(made.tokenizer.targets(params, pixels[:2])).reshape(2, 16)
    found = made.tokenizer.targets(params, pixels[:2], positions)
    np.testing.assert_array_equal(found, np.take_along_axis(every, positions, axis=1))


def test_means_of_pixels_are_decoded():
    made, params, _, pixels, _ = after_a_step("kmeans")
    tokens = made.tokenizer.targets(params, pixels)
    decoded = np.asarray(made.tokenizer.decode(params, tokens))
    means = np.clip(np.asarray(params["codebook"]["vectors"]) + 0.5, 0, 1)
    np.testing.assert_allclose(patches(decoded), means[np.asarray(tokens).reshape(8, 16)], atol=1e-6)
    corner = made.tokenizer.decode(params, tokens[:, :2, :2])  # any grid, as for a picture of the codes
    np.testing.assert_array_equal(corner, decoded[:, :8, :8])


def test_the_tokenizer_of_features_keeps_its_teacher():
    """So that pre-training needs the tokenizer's run alone."""
    made, params, frozen, pixels, _ = after_a_step("kmeans_features")
    jax.tree.map(np.testing.assert_array_equal, params["features"], frozen["teacher"])
    section = ConfigDict(made.config.model.to_dict())
    alone = tasks.create_tokenizer(section, 16)
    np.testing.assert_array_equal(alone.targets(params, pixels), made.tokenizer.targets(params, pixels))


def test_random_codes_never_change():
    made, params, *_ = after_a_step("random_projection")
    jax.tree.map(np.testing.assert_array_equal, params, run_once(made.init, jax.random.key(1)))
