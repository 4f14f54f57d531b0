"""What users save of the live libraries' models, beside their folders: the same outputs, or one line."""

import argparse
import json

import jax
import numpy as np
import pytest
from test_live_libraries import channels_first, draw, randomise

import beit_jax
from beit_jax.errors import UserError
from beit_jax.training.params import flatten

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("torchvision_without_its_binary")
TOLERANCE = 1e-5
SIDE = 32
CLASSES = dict(
    classify="BeitForImageClassification",
    masked="BeitForMaskedImageModeling",
    segment="BeitForSemanticSegmentation",
)


def transformers_model(kind, **fields):
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=64, num_hidden_layers=4, num_attention_heads=2, intermediate_size=256, image_size=SIDE)
    settings = dict(patch_size=8, num_labels=5, vocab_size=40, use_relative_position_bias=True)
    return randomise(getattr(transformers, kind)(transformers.BeitConfig(**(sizes | settings | fields))))


def timm_model(**fields):
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    sizes = dict(img_size=SIDE, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=5, init_values=0.1)
    flags = dict(use_abs_pos_emb=True, use_rel_pos_bias=False)
    return randomise(timm.create_model("beit_base_patch16_224", **(sizes | flags | fields)))


def difference(loaded, reference, **theirs):
    """The largest difference of the logits on one random image, of outputs of about 1."""
    images, mask = draw(SIDE), theirs.pop("mask", None)
    if mask is not None:
        theirs["bool_masked_pos"] = torch.from_numpy(mask.reshape(1, -1))
    with torch.no_grad():
        expected = reference(channels_first(images), **theirs)
    expected = getattr(expected, "logits", expected).numpy()
    assert expected.std() > 0.05
    found = jax.jit(loaded.model.apply)({"params": loaded.params}, images, *(() if mask is None else (mask,)))
    if expected.ndim == 4:
        found, expected = found[0], np.moveaxis(expected, 1, -1)
    return np.abs(found - expected).max()


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("kind", ["classify", "masked", "segment"])
def test_state_dicts_of_transformers(tmp_path, kind, beside, capsys):
    """In memory, transformers 5 has other names than in its files."""
    fields = dict(use_mask_token=True)
    if kind == "segment":
        fields = dict(num_hidden_layers=12, out_indices=[3, 5, 7, 11])
    eps = 0.1 if beside else 1e-12
    model = transformers_model(CLASSES[kind], layer_norm_eps=eps, **fields)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    if beside:
        model.config.to_json_file(tmp_path / "config.json", use_diff=False)
    loaded = beit_jax.from_pretrained(tmp_path / "weights.pth")
    assert loaded.config.model.norm_eps == eps and loaded.config.get("labels", ()) == ()
    assert ("epsilon" in capsys.readouterr().err) == (not beside)
    if kind == "segment":  # transformers takes the outputs of other blocks
        assert loaded.model.layers == (3, 5, 7, 11)
        loaded = loaded._replace(model=loaded.model.clone(layers=(1, 3, 5, 9)))
    mask = np.random.default_rng(2).random((1, 4, 4)) < 0.4 if kind == "masked" else None
    assert difference(loaded, model, mask=mask) <= TOLERANCE


@pytest.mark.parametrize("pooling", [True, False])
@pytest.mark.parametrize("saved", ["folder", "state dict"])
def test_the_encoder_of_transformers_alone(tmp_path, pooling, saved):
    model = transformers_model("BeitModel", use_mean_pooling=pooling, use_mask_token=True)
    if saved == "folder":
        model.save_pretrained(tmp_path)
        source = tmp_path
    else:
        source = tmp_path / "model.ckpt"
        torch.save({"state_dict": {f"model.{name}": value for name, value in model.state_dict().items()}}, source)
    with pytest.raises(UserError, match="is an encoder without a head"):
        beit_jax.from_pretrained(source)
    loaded = beit_jax.from_pretrained(source, num_classes=3)
    head = flatten(loaded.params)

    def reference(images):
        pooled = model(images).pooler_output
        return pooled @ torch.tensor(head["head/kernel"]) + torch.tensor(head["head/bias"])

    head["head/kernel"][...] = np.random.default_rng(0).standard_normal((64, 3))
    assert difference(loaded, reference) <= TOLERANCE


def test_a_classifier_that_kept_its_mask_token(tmp_path, capsys):
    """As every one that was fine-tuned from a pre-trained checkpoint."""
    model = transformers_model("BeitForImageClassification", use_mask_token=True)
    model.config.id2label = dict(enumerate("abcde"))
    model.half().save_pretrained(tmp_path)
    loaded = beit_jax.from_pretrained(tmp_path)
    assert "not used, as this model does not read them: beit.embeddings.mask_token" in capsys.readouterr().err
    assert loaded.config.labels == tuple("abcde") and difference(loaded, model.float()) <= TOLERANCE


def test_preprocessing_that_transformers_saves(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers_model("BeitForImageClassification").save_pretrained(tmp_path)
    given = dict(size={"height": SIDE, "width": SIDE}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    transformers.BeitImageProcessor(**given).save_pretrained(tmp_path)
    section = beit_jax.from_pretrained(tmp_path).config.preprocess
    assert (section.mean, section.std, section.resize) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), SIDE)


@pytest.mark.parametrize("stated", ["by config.json", "by the architecture's name", "by the user", "by nothing"])
def test_heads_of_timm(tmp_path, stated):
    """Without relative positions no tensor tells them."""
    fields = dict(embed_dim=768, depth=12, num_heads=12) if "name" in stated else {}
    model = timm_model(**fields)
    torch.save({"state_dict": model.state_dict(), "arch": "beit_tiny"}, tmp_path / "timm.pth")
    config = {"architecture": "beit_base_patch16_224"}
    if stated == "by config.json":
        config["model_args"] = dict(embed_dim=64, depth=2, num_heads=2)
    if stated in ("by config.json", "by the architecture's name"):
        (tmp_path / "config.json").write_text(json.dumps(config))
    if stated == "by nothing":
        with pytest.raises(UserError, match="does not state its number of attention heads"):
            beit_jax.from_pretrained(tmp_path / "timm.pth")
        return
    loaded = beit_jax.from_pretrained(tmp_path / "timm.pth", heads=2 if stated == "by the user" else None)
    assert difference(loaded, model) <= TOLERANCE


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_the_encoder_of_timm_alone(tmp_path, pool):
    model = timm_model(num_classes=0, global_pool=pool, use_abs_pos_emb=False, use_rel_pos_bias=True)
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    loaded = beit_jax.from_pretrained(tmp_path / "timm.pth", num_classes=64)
    loaded.params["head"]["kernel"][...] = np.eye(64)
    assert difference(loaded, model) <= TOLERANCE


@pytest.mark.parametrize("layer_norms", ["avg", "token"])
def test_pooling_of_timm_that_this_library_does_not_have(tmp_path, layer_norms):
    """Tensors do not tell it; the settings do."""
    model = timm_model(global_pool=layer_norms, use_fc_norm=layer_norms == "token")
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    args = dict(embed_dim=64, depth=2, num_heads=2, global_pool=layer_norms)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "beit_base_patch16_224", "model_args": args}))
    with pytest.raises(UserError, match=f"global_pool='{layer_norms}' by config.json, but its tensors say"):
        beit_jax.from_pretrained(tmp_path / "timm.pth")


def wrapped(kind, state):
    """What training scripts write around a state dict."""
    args = argparse.Namespace(model="beit_base_patch16_224", imagenet_default_mean_and_std=True, lr=1e-3)
    average = {name: value + 1 for name, value in state.items()}
    ddp = {f"module.{name}": value for name, value in state.items()}
    compiled = {f"_orig_mod.{name}": value for name, value in ddp.items()}
    everything = dict(
        model={"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 3, "scaler": {}},
        ema={"model": state, "model_ema": average},
        only_ema={"state_dict_ema": state, "epoch": 1},
        args={"model": state, "args": args},
        deepspeed={"module": ddp, "dp_world_size": 2},
        compiled={"state_dict": compiled},
        lightning={"state_dict": {f"net.{name}": value for name, value in state.items()}, "callbacks": {}},
        plain=ddp,
    )
    return everything[kind]


@pytest.mark.parametrize("kind", ["model", "ema", "only_ema", "args", "deepspeed", "compiled", "lightning", "plain"])
def test_what_training_scripts_write(tmp_path, kind, capsys):
    sizes = dict(embed_dim=768, depth=12, num_heads=12) if kind == "args" else {}
    model = timm_model(use_abs_pos_emb=kind == "args", use_rel_pos_bias=kind != "args", **sizes)
    torch.save(wrapped(kind, model.state_dict()), tmp_path / "checkpoint.pth")
    loaded = beit_jax.from_pretrained(tmp_path / "checkpoint.pth")
    assert difference(loaded, model) <= TOLERANCE
    printed = capsys.readouterr().err
    assert ("taken are the weights under model, not those under model_ema" in printed) == (kind == "ema")
    assert ("statistics of pixels" in printed) == (kind != "args") and "attention heads" not in printed
    assert loaded.config.preprocess.mean[0] == (0.485 if kind == "args" else 0.5)


def test_arguments_that_contradict_the_tensors(tmp_path):
    state = {"model": timm_model().state_dict(), "args": argparse.Namespace(model="beit_large_patch16_224")}
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match="embed_dim=1024 by the arguments of its training, but its tensors say 64"):
        beit_jax.from_pretrained(tmp_path / "checkpoint.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_how_tensors_are_stored(tmp_path, legacy):
    """Transposed, tied, sliced and half-precision tensors."""
    model = timm_model(use_abs_pos_emb=False, use_rel_pos_bias=True)
    state = model.state_dict()
    name, scale = "blocks.0.mlp.fc1.weight", "blocks.0.norm1.weight"
    state[name] = torch.nn.Parameter(state[name].T.contiguous().T)
    state["blocks.1.norm1.weight"] = state[scale]
    long = torch.cat([torch.zeros(7), state["head.bias"]])
    state["head.bias"] = long[7:]
    state["cls_token"] = state["cls_token"].double()
    model.load_state_dict(state)
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    assert difference(beit_jax.from_pretrained(tmp_path / "w.pth"), model) <= TOLERANCE
    quantized = torch.quantize_per_tensor(torch.ones(5), 0.1, 0, torch.qint8)
    for value, message in [(quantized, "kind of tensor"), (torch.ones(5, dtype=torch.int8), "holds head.bias (int8)")]:
        torch.save(state | {"head.bias": value}, tmp_path / "q.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(UserError) as error:
            beit_jax.from_pretrained(tmp_path / "q.pth")
        assert "\n" not in str(error.value) and message in str(error.value)
