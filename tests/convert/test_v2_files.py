"""Pre-trainings of BEiT v2 in the files of the official code."""

import jax
import numpy as np
import pytest
import tiny

from beit_jax import config as configs
from beit_jax import tasks
from beit_jax.convert import from_pretrained, names, safetensors_file
from beit_jax.models.pixel_statistics import STATISTICS
from beit_jax.runtime.run_once import run_once
from beit_jax.training.params import flatten


@pytest.mark.parametrize(
    ("variant", "early_layer", "shared_head", "tensors"),
    [("B/16", 9, True, 220), ("B/16", 9, False, 224), ("L/16", 21, True, 400)],
)
def test_as_many_tensors_as_the_official_code(variant, early_layer, shared_head, tensors):
    config = configs.defaults("pretrain")
    config.model.update(dict(variant=variant, early_layer=early_layer, shared_head=shared_head))
    shapes = flatten(jax.eval_shape(tasks.create_task(config).init, jax.random.key(0)))
    found = names.shapes_in(shapes, "unilm", "pretrain")
    index = 1  # of relative positions, which follows from the grid
    assert len(found) + index == tensors
    width = 768 if variant == "B/16" else 1024
    assert found["cls_pt_layers.1.attn.qkv.weight"] == (3 * width, width)
    assert found["cls_pt_layers.0.gamma_1"] == (width,)
    assert ("cls_pt_lm_head.weight" in found, "cls_pt_norm.bias" in found) == (not shared_head, not shared_head)


@pytest.mark.parametrize("shared_head", [True, False])
def test_round_trip(shared_head, tmp_path, capsys):
    config = tiny.config("pretrain")
    config.model.update(dict(variant="32x5x2/4", early_layer=2, shared_head=shared_head))
    params = run_once(tasks.create_task(config).init, jax.random.key(0))
    expected = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    tensors = names.to_layout(expected, "unilm", "pretrain") | names.buffers(expected, "unilm", "pretrain")
    safetensors_file.write_tensors(tmp_path / "v2.safetensors", tensors)
    _, params, config = from_pretrained(tmp_path / "v2.safetensors")
    assert (config.model.early_layer, config.model.head_layers, config.model.shared_head) == (2, 2, shared_head)
    assert "assumed is block 2, as in the published models" in capsys.readouterr().err
    assert (config.preprocess.mean, config.preprocess.std) == STATISTICS["imagenet"]
    found = flatten(params)
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf)


def test_a_classifier_has_the_main_blocks_alone(tmp_path):
    config = tiny.config("pretrain")
    config.model.update(dict(early_layer=1))
    params = run_once(tasks.create_task(config).init, jax.random.key(0))
    flat = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    safetensors_file.write_tensors(tmp_path / "v2.safetensors", names.to_layout(flat, "unilm", "pretrain"))
    _, params, config = from_pretrained(tmp_path / "v2.safetensors", "classify", num_classes=3)
    assert config.task == "classify" and not any("aggregation" in name for name in flatten(params))
    np.testing.assert_array_equal(
        flatten(params)["encoder/blocks/mlp/fc1/kernel"], flat["encoder/blocks/mlp/fc1/kernel"]
    )
