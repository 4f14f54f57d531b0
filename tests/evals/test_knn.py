"""Nearest neighbours against a plain loop, and features of sets whose size is no multiple of the batch."""

import jax
import numpy as np
import pytest
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.data.in_memory import Examples
from beit_jax.evals import knn
from beit_jax.evals.features import Extractor
from beit_jax.runtime.run_once import run_once
from beit_jax.training import sharding

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


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    columns = {"image": rng.uniform(size=(43, 16, 16, 3)), "label": rng.integers(0, 10, 43)}
    return {"image": columns["image"].astype(np.float32), "label": columns["label"].astype(np.int32)}


@pytest.fixture(scope="module")
def encoder():
    task = tasks.create_task(tiny("probe"))
    return task, {"encoder": run_once(task.frozen_parts["encoder"].init, jax.random.key(1))}


def meshes():
    return [
        sharding.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1]),
        sharding.make_mesh(dict(data=2, fsdp=4, tensor=1)),
    ]


def test_features_do_not_depend_on_batches_or_devices(encoder, images):
    task, frozen = encoder
    found = []
    for mesh, batch_size in zip(meshes(), (5, 16), strict=True):
        with jax.set_mesh(mesh):
            found.append(Extractor(task, mesh)({}, frozen, Examples(images, batch_size), 43))
    for features, labels in found:
        assert features.shape == (43, 2, 64)
        np.testing.assert_array_equal(labels, images["label"])
        np.testing.assert_allclose(features, found[0][0], rtol=1e-5, atol=1e-6)


def test_the_evaluator_on_one_and_eight_devices(encoder, images):
    task, frozen = encoder
    half = {name: column[:20] for name, column in images.items()}
    results = []
    for mesh, batch_size in zip(meshes(), (5, 16), strict=True):
        sets = [knn.LabelledSet(Examples(part, batch_size), len(part["label"])) for part in (images, half)]
        with jax.set_mesh(mesh):
            results.append(knn.Knn(task, *sets, num_classes=10, k=1)(mesh, {}, frozen))
    assert results[0] == results[1]
    # Each query is in the bank: its nearest neighbour is itself.
    expected = {"knn_top1": 1.0, "knn_best_layer": 1.0, "knn_top1_layer01": 1.0, "knn_top1_layer02": 1.0}
    assert results[0] == expected


class Counted(Examples):
    """Counts how often it was read."""

    reads = 0

    def __iter__(self):
        self.reads += 1
        return super().__iter__()


def test_layers_keep_their_numbers_and_a_frozen_encoder_is_evaluated_once(encoder, images):
    _, frozen = encoder
    config = tiny("probe")
    config.layers = (2,)
    mesh, train, test = meshes()[0], Counted(images, 8), Counted(images, 8)
    sets = [knn.LabelledSet(part, 43) for part in (train, test)]
    evaluation = knn.Knn(tasks.create_task(config), *sets, num_classes=10, k=1)
    with jax.set_mesh(mesh):
        first, again = (evaluation(mesh, {}, frozen) for _ in range(2))
    assert first == again == {"knn_top1": 1.0, "knn_best_layer": 2.0, "knn_top1_layer02": 1.0}
    assert (train.reads, test.reads) == (1, 1)


def test_an_encoder_that_learns_is_evaluated_again(images):
    config = tiny("pretrain")
    task, mesh = tasks.create_task(config), meshes()[0]
    sets = [knn.LabelledSet(Counted(images, 8), 43) for _ in range(2)]
    evaluation = knn.Knn(task, *sets, num_classes=10, k=5)
    with jax.set_mesh(mesh):
        for seed in (0, 1):
            assert evaluation(mesh, run_once(task.init, jax.random.key(seed)), {})["knn_best_layer"] in (1, 2)
    assert [part.batches.reads for part in sets] == [2, 2]
