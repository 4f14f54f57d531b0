"""Features of sets whose size is no multiple of the batch, and what all kinds of evaluation make of them."""

import jax
import numpy as np
import pytest
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.data.in_memory import Examples
from beit_jax.errors import UserError
from beit_jax.evals.feature_evaluation import FeatureEvaluation, ImageSet
from beit_jax.evals.features import Extractor
from beit_jax.evals.knn import Knn
from beit_jax.evals.probe import Probe
from beit_jax.evals.rankme import RankMe
from beit_jax.runtime.run_once import run_once
from beit_jax.training import sharding


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


def evaluation(task, *parts, kinds=3, batch_size=8, k=1):
    made = [Knn(task.embedded_layers, 10, k), RankMe(task.embedded_layers), Probe(task.embedded_layers, 10)]
    sets = [ImageSet(Counted(part, batch_size), len(part["image"])) for part in parts]
    return FeatureEvaluation(task, made[:kinds], *sets), sets


class Counted(Examples):
    """Counts how often it was read."""

    reads = 0

    def __iter__(self):
        self.reads += 1
        return super().__iter__()


def test_all_kinds_on_one_and_eight_devices(encoder, images):
    task, frozen = encoder
    half, results = {name: column[:20] for name, column in images.items()}, []
    for mesh, batch_size in zip(meshes(), (5, 16), strict=True):
        made, sets = evaluation(task, images, half, batch_size=batch_size)
        with jax.set_mesh(mesh):
            results.append(made(mesh, {}, frozen))
        assert [part.batches.reads for part in sets] == [1, 1]  # once for all kinds
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    # Each query is in the bank: its nearest neighbour is itself. 43 images in 64 dimensions are learned by heart.
    for kind in ("knn", "probe"):
        assert [results[0][f"{kind}_top1{layer}"] for layer in ("", "_layer01", "_layer02")] == [1, 1, 1]
        assert results[0][f"{kind}_best_layer"] == 1
    assert results[0]["rankme"] == results[0]["rankme_layer02"] != results[0]["rankme_layer01"] > 1


def test_layers_keep_their_numbers_and_a_frozen_encoder_is_evaluated_once(encoder, images):
    _, frozen = encoder
    config, mesh = tiny("probe"), meshes()[0]
    config.layers = (2,)
    made, sets = evaluation(tasks.create_task(config), images, images)
    with jax.set_mesh(mesh):
        first, again = (made(mesh, {}, frozen) for _ in range(2))
    assert first == again
    expected = {f"{kind}_{name}" for kind in ("knn", "probe") for name in ("top1", "best_layer", "top1_layer02")}
    assert first.keys() == expected | {"rankme", "rankme_layer02"} and first["knn_best_layer"] == 2
    assert [part.batches.reads for part in sets] == [1, 1]


def test_an_encoder_that_learns_is_evaluated_again(images):
    task, mesh = tasks.create_task(tiny("pretrain")), meshes()[0]
    train = Counted({"image": images["image"]}, 8)  # without labels
    made = FeatureEvaluation(task, [RankMe(task.embedded_layers)], ImageSet(train, 43))
    with jax.set_mesh(mesh):
        ranks = [made(mesh, run_once(task.init, jax.random.key(seed)), {})["rankme"] for seed in (0, 1)]
    assert ranks[0] != ranks[1] and train.reads == 2


def test_images_without_a_label_do_not_vote_and_are_not_scored(encoder, images):
    task, frozen = encoder
    mesh, some = meshes()[0], np.arange(43) < 30
    partly = images | {"label": np.where(some, images["label"], -1).astype(np.int32)}
    known = {name: column[some] for name, column in images.items()}
    with jax.set_mesh(mesh):
        found, expected = (evaluation(task, part, part, kinds=2, k=5)[0](mesh, {}, frozen) for part in (partly, known))
        assert found["knn_top1_layer01"] == expected["knn_top1_layer01"] < 1
        assert found["rankme"] > expected["rankme"]  # which takes all
        none = images | {"label": np.full(43, -1, np.int32)}
        with pytest.raises(UserError, match="has a label for evals"):
            evaluation(task, images, none)[0](mesh, {}, frozen)
