"""Settings that lie beside weights are taken, whatever the weights are called; what contradicts them is one line."""

import json

import jax
import numpy as np
import pytest
from random_models import pretrained
from safetensors.numpy import load_file, save_file

import beit_jax
from beit_jax.errors import UserError

NAMES = ("class a", "class b", "class c")


@pytest.fixture
def theirs(tmp_path):
    """Writes a classifier whose heads, epsilon, statistics and labels are not the usual ones."""

    def write(format, weights):
        _, params, config = pretrained("classify", "64x2x2/4", "absolute", classes=3)
        config.model.norm_eps, config.labels = (0.01 if format == "hf" else 1e-6), NAMES
        config.preprocess.mean, config.preprocess.std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
        beit_jax.save_pretrained(tmp_path / format, params, config, format=format)
        (tmp_path / format / "model.safetensors").rename(tmp_path / format / weights)
        return tmp_path / format, params, config

    return write


@pytest.mark.parametrize(
    ("weights", "by_file"),
    [("model.safetensors", True), ("beit.safetensors", True), ("weights of may.safetensors", False)],
)
@pytest.mark.parametrize("format", ["hf", "timm"])
def test_settings_are_read_beside_any_weights(theirs, format, weights, by_file, capsys):
    folder, params, config = theirs(format, weights)
    model, found, changed = beit_jax.from_pretrained(folder / weights if by_file else folder)
    assert changed.preprocess == config.preprocess and changed.labels == NAMES
    assert changed.model.variant == "64x2x2/4" and changed.model.norm_eps == config.model.norm_eps
    assert capsys.readouterr().err == ""  # nothing was assumed
    own = pretrained("classify", "64x2x2/4", "absolute", classes=3).model
    assert model == own.clone(encoder=own.encoder.clone(norm_eps=config.model.norm_eps))
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize(
    ("format", "changes", "message"),
    [
        (
            "hf",
            dict(model_type="vit"),
            r"config.json is of transformers \(model_type='vit'\), .* in beit.safetensors",
        ),
        ("hf", dict(architecture="beit_base_patch16_224"), "is of timm, .* of transformers .model_type beit or"),
        ("hf", dict(num_hidden_layers=3), r"hf, with the config.json in its folder, .*missing: "),
        ("hf", dict(num_attention_heads=5), r"hf has the width, depth and heads \[64, 2, 5\] in config.json"),
        ("hf", dict(problem_type="multi_label_classification"), r"problem_type='multi_label_classification'"),
        ("hf", dict(pool_scales=[1, 2, 4, 8]), r"pool_scales=\[1, 2, 4, 8\]"),
        ("hf", dict(num_labels=4), r"num_labels=4 in config.json, but its classifier has 3 rows"),
        ("timm", dict(architecture="", model_args=dict(depth=3)), r"timm has depth=3 by config.json, but .* say 2"),
        ("timm", dict(model_args=dict()), r"embed_dim=768 by config.json, but its tensors say 64"),
        (
            "timm",
            dict(model_args=dict(embed_dim=64, depth=2, num_heads=2), global_pool="token"),
            "global_pool='token' by config.json, but its tensors say mean",
        ),
        ("timm", dict(model_args=3), r"timm/config.json has model_args=3; expected an object"),
        ("timm", dict(num_classes=4), r"num_classes=4 in config.json, but its classifier has 3 rows"),
        ("timm", dict(label_names=["a"]), r"label_names for 1 classes"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(theirs, format, changes, message):
    folder, *_ = theirs(format, "beit.safetensors")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=message) as error:
        beit_jax.from_pretrained(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(global_pool="token"), "global_pool='token' by config.json, but its tensors say mean"),
        (dict(img_size=[16, 32]), r"img_size=\[16, 32\] by config.json, but its tensors say 16"),
        (dict(patch_size=8), "patch_size=8 by config.json, but its tensors say 4"),
        (dict(num_heads="2"), "num_heads='2' by config.json; expected a number"),
        (dict(num_heads=3), "which 3 attention heads do not divide"),
    ],
)
def test_model_args_of_timm_that_do_not_fit(theirs, changes, message):
    folder, *_ = theirs("timm", "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        beit_jax.from_pretrained(folder)


def test_names_of_another_library_than_the_settings(theirs, tmp_path):
    """Two downloads in one folder: neither is read with the settings of the other."""
    official, *_ = theirs("timm", "official.safetensors")
    other, *_ = theirs("hf", "model.safetensors")
    (official / "official.safetensors").rename(other / "official.safetensors")
    beit_jax.from_pretrained(other)
    with pytest.raises(UserError, match=r"config.json is of transformers \(model_type='beit'\).*official.safetensors"):
        beit_jax.from_pretrained(other / "official.safetensors")
    (other / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config.json is of another program, .* beside it; expected .* timm"):
        beit_jax.from_pretrained(other / "official.safetensors")


def test_settings_beside_two_files_of_weights_fit_both(theirs):
    """A fine-tuned copy beside the model is read with the same settings; one of another shape is an error."""
    folder, params, _ = theirs("hf", "model.safetensors")
    state = load_file(folder / "model.safetensors")
    save_file({name: 2 * value for name, value in state.items()}, folder / "twice.safetensors")
    twice = beit_jax.from_pretrained(folder / "twice.safetensors")
    assert twice.config.labels == NAMES and twice.config.model.variant == "64x2x2/4"
    np.testing.assert_array_equal(twice.params["head"]["kernel"], 2 * params["head"]["kernel"])
    save_file(state | {"classifier.bias": np.zeros(5, np.float32)}, folder / "other.safetensors")
    with pytest.raises(UserError, match=r"other.safetensors, with the config.json in its folder, is no complete"):
        beit_jax.from_pretrained(folder / "other.safetensors")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, ()),  # transformers' default: no names
        ({"2": "c", "0": "a", "1": "b"}, ("a", "b", "c")),
        ({"1": "a", "2": "b", "3": "c"}, r"id2label without the numbers 0 in config.json; expected 0 to 2"),
        ({"0": "a", "1": "b", "7": "c"}, r"id2label without the numbers 2 in config.json"),
        ({"0": "a", "1": "b"}, r"id2label for 2 classes in config.json; .*3 rows"),
        ({"0": "a", "1": "b", "2": None}, r"id2label in config.json that is no text"),
        ({"a": "a", "1": "b", "2": "c"}, r"has id2label for \{'a'"),
    ],
)
def test_labels(theirs, labels, expected):
    folder, *_ = theirs("hf", "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": labels}))
    if isinstance(expected, tuple):
        assert beit_jax.from_pretrained(folder).config.labels == expected
    else:
        with pytest.raises(UserError, match=expected):
            beit_jax.from_pretrained(folder)
