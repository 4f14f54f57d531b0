"""RankMe of matrices whose rank is known, and against singular values as the paper takes them."""

import numpy as np
import pytest

from beit_jax.evals import rankme as module
from beit_jax.evals.features import Features
from beit_jax.evals.rankme import RankMe, rankme


def from_singular_values(features):
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    fractions = values / values.sum() + 1e-7
    return np.exp(-np.sum(fractions * np.log(fractions)))


@pytest.mark.parametrize("rank", [1, 5, 24])
def test_orthogonal_rows_have_their_number(rank):
    rows = np.linalg.qr(np.random.default_rng(rank).normal(size=(32, rank)))[0].T
    assert rankme(np.float32(rows)) == pytest.approx(rank, rel=1e-4)
    assert rankme(np.float32(1e3 * np.repeat(rows, 7, axis=0))) == pytest.approx(rank, rel=1e-4)


def test_equal_rows_have_one():
    row = np.random.default_rng(0).normal(size=(1, 32)).astype(np.float32)
    assert rankme(np.repeat(row, 50, axis=0)) == pytest.approx(1, abs=1e-3)
    assert rankme(np.linspace(1, 2, 50, dtype=np.float32)[:, None] * row) == pytest.approx(1, abs=1e-3)
    assert rankme(np.zeros((50, 32), np.float32)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("shape", [(60, 24), (24, 24), (10, 24), (1, 24)])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_against_singular_values(shape, mean, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 7)
    rng = np.random.default_rng(0)
    features = (mean + rng.normal(size=shape) * np.logspace(0, -4, shape[1])).astype(np.float32)
    assert rankme(features) == pytest.approx(from_singular_values(features), rel=1e-6)


def test_features_that_are_not_finite():
    assert np.isnan(rankme(np.array([[1, 2], [np.inf, 0]], np.float32)))


def test_layers_and_the_most_images(monkeypatch):
    monkeypatch.setattr(module, "MOST_IMAGES", 4)
    features = np.random.default_rng(0).normal(size=(10, 2, 8)).astype(np.float32)
    numbers = RankMe((3, 5))(None, Features(features, np.full(10, -1, np.int32)), None)
    chosen = features[[0, 2, 5, 7]]
    expected = {"rankme_layer03": rankme(chosen[:, 0]), "rankme_layer05": rankme(chosen[:, 1])}
    assert numbers == expected | {"rankme": expected["rankme_layer05"]}
