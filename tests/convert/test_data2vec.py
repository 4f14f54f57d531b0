"""data2vec for images by the names of transformers; its models of sound and text are refused."""

import json

import numpy as np
import pytest
from random_models import pretrained
from safetensors.numpy import load_file, save_file

import beit_jax
from beit_jax.convert.__main__ import main as convert
from beit_jax.errors import UserError
from beit_jax.training.params import flatten


def assert_same(found, expected):
    found, expected = flatten(found), flatten(expected)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_there_and_back(tmp_path, task):
    _, params, config = pretrained(task)
    beit_jax.save_pretrained(tmp_path / "theirs", params, config, format="data2vec")
    state = load_file(tmp_path / "theirs" / "model.safetensors")
    assert "data2vec_vision.encoder.layer.1.attention.attention.query.bias" in state
    assert not any(name.startswith("beit.") for name in state)
    stated = json.loads((tmp_path / "theirs" / "config.json").read_text())
    kind = {"classify": "ImageClassification", "segment": "SemanticSegmentation"}[task]
    assert (stated["model_type"], stated["architectures"]) == ("data2vec-vision", [f"Data2VecVisionFor{kind}"])
    loaded = beit_jax.from_pretrained(tmp_path / "theirs")
    assert_same(loaded.params, params)
    assert loaded.config.model == config.model and loaded.config.preprocess == config.preprocess


def test_segmentation_by_the_names_of_transformers_4(tmp_path):
    _, params, config = pretrained("segment")
    beit_jax.save_pretrained(tmp_path / "theirs", params, config, format="hf")
    file, settings = (tmp_path / "theirs" / name for name in ("model.safetensors", "config.json"))
    state = {name.replace("beit.", "data2vec_vision."): value for name, value in load_file(file).items()}
    assert "decode_head.psp_modules.0.1.bn.running_mean" in state
    save_file(state, file)
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_type": "data2vec-vision"}))
    assert_same(beit_jax.from_pretrained(tmp_path / "theirs").params, params)


def test_no_other_model_is_written_as_data2vec(tmp_path):
    for task in ("pretrain", "tokenizer"):
        _, params, config = pretrained(task)
        with pytest.raises(UserError, match=f"'data2vec' has no layout for models of the task '{task}'"):
            beit_jax.save_pretrained(tmp_path / "out", params, config, format="data2vec")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("data2vec-audio", ["encoder.layers.0.attention.q_proj.weight", "feature_extractor.conv_layers.0.conv.weight"]),
        ("data2vec-text", ["embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.query.weight"]),
    ],
)
def test_data2vec_of_sound_and_text(tmp_path, kind, names):
    (tmp_path / "theirs").mkdir()
    save_file({name: np.ones((2, 2), np.float32) for name in names}, tmp_path / "theirs" / "model.safetensors")
    command = [str(tmp_path / "theirs"), str(tmp_path / "out"), "--to=beit_jax"]
    with pytest.raises(UserError, match=f"is of no known layout .its tensors: {names[0]}"):
        convert(command)
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(UserError, match=f"is a '{kind}' by the config.json beside it, .*data2vec for images") as error:
        convert(command)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
