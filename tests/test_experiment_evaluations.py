"""Which images the evaluation of features reads, and what is refused before a run begins."""

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import config as tiny
from tiny import experiment, one_device

from beit_jax.errors import UserError

OPS = "decode|resize(image_size)|normalize(statistics)|keep('image', 'label')"


def with_evals(source, *kinds, **keys):
    config = tiny("pretrain_pixels")
    config.data.update(dict(source=source, split="train[:60%]", eval_split="train[60%:]", eval_ops=""))
    config.evals.update(dict(kinds=kinds, ops=OPS) | keys)
    return experiment(config, one_device())


@pytest.fixture
def unlabelled(tmp_path):
    """A folder of ten images without class folders."""
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return f"folder:{tmp_path}"


def test_rankme_needs_no_labels(unlabelled):
    made = with_evals(unlabelled, "rankme")
    (evaluation,) = made.data.evaluations
    with jax.set_mesh(made.mesh):
        numbers = evaluation(made.mesh, made.task.init(jax.random.key(0)), {})
    assert numbers.keys() == {"rankme", "rankme_layer01", "rankme_layer02"}
    assert 1 < numbers["rankme"] < 6.01  # of six images


def test_the_others_need_labels(unlabelled):
    message = r"evals.kinds=rankme,knn,probe, but folder:.* has no labels, which knn and probe compare; .*=rankme$"
    with pytest.raises(UserError, match=message):
        _ = with_evals(unlabelled, "rankme", "knn", "probe").data.evaluations


@pytest.mark.parametrize("source", ["digits", "folder"])
def test_the_most_images(source, tmp_path):
    """Of records and of a folder, which is sorted by classes."""
    for index in range(40 if source == "folder" else 0):
        path = tmp_path / "train" / "ab"[index >= 20] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (index, 0, 0)).save(path)
    source = f"folder:{tmp_path}" if source == "folder" else source
    (evaluation,) = with_evals(source, "knn", images=7).data.evaluations
    for images in evaluation._sets:
        labels = np.concatenate([batch["label"][batch["valid"]] for batch in images.batches])
        assert 4 <= len(labels) == images.images <= 7 and len(set(labels.tolist())) > 1
