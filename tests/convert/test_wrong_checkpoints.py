"""Everything that can be wrong with a checkpoint: one line that says what."""

import errno
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import beit_jax
from beit_jax.convert.__main__ import main as convert
from beit_jax.errors import UserError


def change(folder, function):
    state = load_file(folder / "model.safetensors")
    function(state)
    save_file(state, folder / "model.safetensors")


BIAS = "beit.encoder.layer.1.output.dense.bias"


def nan(state):
    state[BIAS] = np.full_like(state[BIAS], np.nan)


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda state: state.pop(BIAS), ["missing: beit.encoder.layer.1.output.dense.bias"]),
        (lambda state: state.update(extra=np.ones(2)), ["unexpected: extra"]),
        (
            lambda state: state.update({BIAS: np.ones(31, np.float32)}),
            [f"of another shape: {BIAS} (31,) (expected (32,))"],
        ),
        (nan, [f"holds nan in {BIAS} at [0]; expected finite"]),
        (lambda state: [state.pop(name) for name in list(state) if name.startswith("beit")], ["no known layout"]),
        (
            lambda state: state.update({"decode_head.bottleneck.conv.weight": np.ones(2)}),
            ["has no decode_head.classifier.weight"],
        ),
        (lambda state: state.pop("classifier.weight"), ["has no classifier.weight"]),
        (
            lambda state: state.update({"beit3.encoder.layers.0.self_attn.inner_attn_ln.A.weight": np.ones(2)}),
            ["has norms within its blocks (beit3.encoder.layers.0.self_attn.inner_attn_ln.A.weight), as BEiT-3 has"],
        ),
    ],
)
def test_damaged_checkpoints_are_one_line(folder, tmp_path, damage, parts):
    change(folder, damage)
    with pytest.raises(UserError) as error:
        convert([str(folder), str(tmp_path / "out"), "--to=beit_jax"])
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_settings_beside_the_weights(folder):
    config, processor = (
        json.loads((folder / name).read_text()) for name in ("config.json", "preprocessor_config.json")
    )
    labels = {str(i): f"class {i}" for i in range(11)}
    kept = {key: value for key, value in config.items() if key not in ("layer_norm_eps", "layer_scale_init_value")}
    (folder / "config.json").write_text(json.dumps(kept | {"id2label": labels, "image_size": [16, 16]}))
    loaded = beit_jax.from_pretrained(folder / "model.safetensors").config
    assert loaded.labels[8:] == ("class 8", "class 9", "class 10")
    assert loaded.model.norm_eps == 1e-12  # transformers' default
    for changes, message in [
        (dict(do_normalize=False), "do_normalize=False; expected True"),
        (dict(resample=5), "resample=5"),
        (dict(size={}), "expected a size of at least the model's 16 pixels"),
        (dict(image_mean=["x"]), "expected a number for each of three channels"),
    ]:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor | changes))
        with pytest.raises(UserError, match=message):
            beit_jax.from_pretrained(folder)
    (folder / "preprocessor_config.json").write_text("[]")
    with pytest.raises(UserError, match="holds a list; expected an object"):
        beit_jax.from_pretrained(folder)


def test_truncated_file(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"model.safetensors cannot be read .*truncated"):
        beit_jax.from_pretrained(folder)


def test_models_that_this_library_does_not_have(folder):
    config = json.loads((folder / "config.json").read_text())
    two = {"0": "cat", "1": "dog"}
    for changes, message in [
        (dict(hidden_act="relu"), r"hidden_act='relu' in config.json; expected 'gelu'"),
        (dict(intermediate_size=100), r"intermediate_size=100 in config.json; expected 128"),
        (dict(num_hidden_layers=3), "missing: beit.encoder.layer.2.attention"),
        (dict(num_hidden_layers=1), "unexpected: beit.encoder.layer.1.attention"),
        (dict(num_attention_heads=4), r"relative_position_bias_table \(52, 2\) \(expected \(52, 4\)\)"),
        (dict(use_relative_position_bias=False), "unexpected: .*relative_position_bias_table"),
        (dict(use_absolute_position_embeddings=True), "missing: beit.embeddings.position_embeddings"),
        (dict(use_mean_pooling=False), "missing: beit.layernorm.bias"),
        (dict(layer_scale_init_value=0.0), "unexpected: beit.encoder.layer.0.lambda_1"),
        (dict(image_size=24), "expected a size of at least the model's 24 pixels"),
        (dict(image_size=12), "images of 12x12 pixels"),
        (dict(layer_norm_eps=None), "layer_norm_eps=None in config.json; expected a value such as 1e-12"),
        (dict(hidden_size="32"), "hidden_size='32' in config.json"),
        (dict(id2label=two), "id2label for 2 classes in config.json; expected .* 11 rows"),
        (dict(id2label=3), "id2label for 3 in config.json"),
    ]:
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(UserError, match=message) as error:
            beit_jax.from_pretrained(folder)
        assert "\n" not in str(error.value)


def test_names_of_no_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="nowhere does not exist; expected"):
        beit_jax.from_pretrained("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no checkpoint; expected a run .*, model"):
        beit_jax.from_pretrained(tmp_path / "empty")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="is not in the cache of the hub, and HF_HUB_OFFLINE is set") as error:
        beit_jax.from_pretrained("microsoft/no-such-model")
    assert "\n" not in str(error.value)

    def no_cache(*_, **__):
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", "home/.cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_cache)
    with pytest.raises(UserError, match=r"home/.cache'\); set HF_HOME to a folder that can be written"):
        beit_jax.from_pretrained("microsoft/no-such-model")
