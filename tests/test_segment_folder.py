"""configs/segment.py on folders: the number of classes, the table before a run, and what is asked for."""

import numpy as np
import pytest
from PIL import Image

from beit_jax import config as configs
from beit_jax import overview
from beit_jax.errors import UserError
from beit_jax.experiment import Experiment

pytestmark = pytest.mark.usefixtures("in_the_checkout")


@pytest.fixture
def build(tmp_path):
    """The experiment of a small network on a folder of pairs with the given label maps."""

    def make(maps, arguments="", folder="own"):
        root = tmp_path / folder
        for kind in ("images", "annotations"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        for index, labels in enumerate(maps):
            Image.fromarray(labels).save(root / "annotations" / f"{index}.png")
            Image.new("RGB", labels.shape[::-1]).save(root / "images" / f"{index}.jpg")
        config = configs.load(f"configs/segment.py:head=setr_pup,data=folder:{root}{arguments}")
        config.model.update(dict(variant="Micro/4", image_size=16, channels=8, layers=(1,)))
        config.batch_size, config.steps, config.optimizer.warmup = 8, 10, "1 steps"
        return Experiment.build(config, tmp_path / "run")

    return make


def checkered(*values, count=20):
    return [np.resize(np.array(values, np.uint8), (12, 10)) for _ in range(count)]


def test_own_label_maps_are_taken_as_they_are(build):
    experiment = build([*checkered(0, 1, 2, 0), *checkered(2, 255, count=4)])
    assert experiment.config.model.num_classes == 3 and "reduce_zero_label" not in experiment.config.data.ops
    train, held_out = experiment.data.label_counts
    assert train.maps + held_out.maps == 24
    lines = overview._label_maps({"segment": experiment})
    assert len(lines) == 2 and "3 of 3 classes" in lines[0] and "of the pixels do not count (255)" in lines[0]


@pytest.mark.parametrize(("arguments", "folder"), [(",ade20k", "own"), ("", "ADEChallengeData2016")])
def test_ade20k_is_asked_for_or_named(build, arguments, folder):
    experiment = build(checkered(0, 0, 0, 1, 150), arguments, folder)
    assert experiment.config.model.num_classes == 150
    for ops in (experiment.config.data.ops, experiment.config.data.eval_ops):
        assert ops.startswith("decode|reduce_zero_label|")
    train = experiment.data.label_counts[0]
    assert train.classes.tolist() == [0, 149] and train.ignored == pytest.approx(0.6)
    assert "2 of 150 classes" in overview._label_maps({"segment": experiment})[0]


def test_binary_masks(build):
    with pytest.raises(UserError, match=r"hold 1 class, .*configs/segment.py:binary"):
        build(checkered(0, 255))
    experiment = build(checkered(0, 255), ",binary")
    assert experiment.config.model.num_classes == 2
    assert experiment.data.label_counts[0].classes.tolist() == [0, 1]
