"""Logistic regression against that of scikit-learn, and what the choice of the penalty sees."""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from beit_jax.evals import probe as module
from beit_jax.evals.features import Features
from beit_jax.evals.probe import PENALTIES, Probe, Rows, minimize, moments, objective, zeros
from beit_jax.training import sharding

ONE, EIGHT = dict(data=1, fsdp=1, tensor=1), dict(data=2, fsdp=2, tensor=2)
TRAIN = 301  # which no number of devices divides


@pytest.fixture(scope="module")
def digits():
    """Pixels as features of one layer; some of them are 0 in every image."""
    pixels, classes = load_digits(return_X_y=True)
    made = Features(np.float32(pixels)[:, None], np.int32(classes))
    return Features(made.features[:TRAIN], made.labels[:TRAIN]), Features(made.features[TRAIN:], made.labels[TRAIN:])


def score(train, test, sizes=ONE):
    mesh = sharding.make_mesh(sizes, jax.devices()[: np.prod(list(sizes.values()))])
    with jax.set_mesh(mesh):
        return Probe((1,), 10)(mesh, train, test)["probe_top1"]


@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
def test_the_classifier_is_that_of_scikit_learn(digits, penalty):
    (features, classes), (others, truth) = (part.layer(0) for part in digits)
    mean, scale = moments(features)
    assert np.sum(scale == 1) > 5  # of the pixels without a spread
    learned, scored = (features - mean) / scale, (others - mean) / scale
    rows = Rows(learned, classes, np.ones(TRAIN, np.float32))
    fit = jax.jit(minimize, static_argnames=("steps", "tolerance"))
    found = jax.device_get(fit(zeros(64, 10), rows, np.float32(penalty), steps=500, tolerance=1e-6))
    expected = LogisticRegression(C=1 / (TRAIN * penalty), tol=1e-10, max_iter=5000).fit(np.float64(learned), classes)
    np.testing.assert_allclose(found["kernel"].T, expected.coef_, atol=1e-2)
    # The bias has no penalty, and its mean over the classes no effect.
    bias = np.asarray(found["bias"]) - np.mean(found["bias"])
    np.testing.assert_allclose(bias, expected.intercept_ - np.mean(expected.intercept_), atol=1e-2)
    best = dict(kernel=np.float32(expected.coef_.T), bias=np.float32(expected.intercept_))
    assert objective(found, rows, np.float32(penalty)) == pytest.approx(
        float(objective(best, rows, np.float32(penalty))), rel=1e-5
    )
    accuracy = np.mean(np.argmax(scored @ found["kernel"] + found["bias"], axis=1) == truth)
    assert accuracy == pytest.approx(expected.score(np.float64(scored), truth), abs=2e-3)


def test_the_same_on_eight_devices_and_as_good_as_scikit_learn(digits):
    train, test = digits
    found = score(train, test)
    assert found == pytest.approx(score(train, test, EIGHT), abs=1e-3)
    (learned, classes), (scored, truth) = (part.layer(0) for part in digits)
    scale = moments(learned)
    learned, scored = ((part - scale[0]) / scale[1] for part in (learned, scored))
    theirs = [
        LogisticRegression(C=1 / (TRAIN * penalty), max_iter=1000).fit(learned, classes).score(scored, truth)
        for penalty in PENALTIES
    ]
    assert max(theirs) - 0.01 < found <= max(theirs) + 2e-3


def test_the_scored_images_choose_nothing(digits):
    train, test = digits
    halves = [Features(test.features[start::2], test.labels[start::2]) for start in (0, 1)]
    both = sum(score(train, half) * len(half.labels) for half in halves) / len(test.labels)
    assert score(train, test) == pytest.approx(both, abs=1e-6)


def test_noise_gets_a_large_penalty(digits):
    """Where labels are mostly wrong, the penalty that is chosen on held-out images does better than a small one."""
    train, test = digits
    random = np.random.default_rng(0)
    wrong = np.where(random.uniform(size=TRAIN) < 0.5, random.integers(0, 10, TRAIN), train.labels).astype(np.int32)
    features = (train.features[:, 0], test.features[:, 0])
    mean, scale = moments(features[0])
    learned, scored = ((part - mean) / scale for part in features)
    small = LogisticRegression(C=1 / (TRAIN * PENALTIES[-1]), max_iter=1000).fit(learned, wrong)
    assert score(Features(train.features, wrong), test) > small.score(scored, test.labels) + 0.05


def test_too_few_images_to_hold_some_out(digits, monkeypatch):
    monkeypatch.setattr(module, "HELD_OUT", TRAIN + 1)
    (learned, classes), (scored, truth) = (part.layer(0) for part in digits)
    mean, scale = moments(learned)
    expected = LogisticRegression(C=1 / (TRAIN * PENALTIES[0]), max_iter=1000).fit((learned - mean) / scale, classes)
    assert score(*digits) == pytest.approx(expected.score((scored - mean) / scale, truth), abs=2e-3)


def test_images_without_a_label_are_not_learned(digits):
    train, test = digits
    more = Features(np.concatenate([train.features, test.features]), np.pad(train.labels, (0, len(test.labels))))
    more.labels[TRAIN:] = -1
    assert score(more, test) == score(train, test)
