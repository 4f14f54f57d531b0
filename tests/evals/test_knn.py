"""Nearest neighbours against a plain loop."""

import numpy as np
import pytest

from beit_jax.evals import knn

CLASSES = 5


def plain_vote(bank, classes, query, k):
    cosine = bank @ query / (np.linalg.norm(bank, axis=1) * np.linalg.norm(query))
    votes = np.zeros(CLASSES)
    for i in np.argsort(-cosine)[:k]:
        votes[classes[i]] += np.exp(cosine[i] / 0.07)
    return int(np.argmax(votes))


@pytest.mark.parametrize("k", [1, 7, 40, 41])
def test_votes_are_those_of_a_plain_loop(k):
    rng = np.random.default_rng(k)
    bank, classes = rng.normal(size=(40, 6)), rng.integers(0, CLASSES, 40).astype(np.int32)
    queries = rng.normal(size=(30, 6))
    expected = [plain_vote(bank, classes, query, k) for query in queries]
    found = knn.vote(bank.astype(np.float32), classes, queries.astype(np.float32), num_classes=CLASSES, k=k)
    assert found.tolist() == expected
    assert len(set(expected)) > 2
