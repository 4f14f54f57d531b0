"""Weights without settings: what their tensors do not tell is asked for; what other programs wrap is found."""

import ml_dtypes
import numpy as np
import pytest
from random_models import pretrained
from safetensors.numpy import save_file

import beit_jax
from beit_jax.convert import names, state_dicts
from beit_jax.convert.__main__ import main as convert
from beit_jax.errors import UserError
from beit_jax.models.relative_position import relative_position_index
from beit_jax.training.params import flatten


def state_of(task, layout, *args, **kwargs):
    """The state dict of a model, and its parameters."""
    params = flatten(pretrained(task, *args, **kwargs).params)
    return dict(names.to_layout(params, layout, task)), params


def write(folder, state, metadata=None, name="beit.safetensors"):
    file = folder / name
    save_file({key: np.array(value, order="C") for key, value in state.items()}, file, metadata)
    return file


def assert_loads(file, params, **kwargs):
    loaded = beit_jax.from_pretrained(file, **kwargs)
    found = flatten(loaded.params)
    assert set(found) == set(params)
    for name, value in params.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    return loaded


@pytest.mark.parametrize("layout", ["unilm", "hf"])
def test_heads_that_nothing_states_are_asked_for(tmp_path, layout, capsys):
    state, params = state_of("classify", layout, "64x2x2/4", "absolute")
    file = write(tmp_path, state)
    message = r"beit.safetensors does not state its number of attention heads: .* width 64 .*--heads N"
    with pytest.raises(UserError, match=message):
        beit_jax.from_pretrained(file)
    with pytest.raises(UserError, match=message):
        convert([str(file), str(tmp_path / "out"), "--to=beit_jax"])
    with pytest.raises(UserError, match="width 64, which 5 attention heads do not divide"):
        beit_jax.from_pretrained(file, heads=5)
    model, *_ = assert_loads(file, params, heads=2)
    assert model.encoder.heads == 2
    convert([str(file), str(tmp_path / "out"), "--to=beit_jax", "--heads=2"])
    again = beit_jax.from_pretrained(tmp_path / "out")
    assert again.model.encoder.heads == 2 and "attention heads" not in capsys.readouterr().err
    with pytest.raises(UserError, match="has 2 attention heads, and heads=4 is given"):
        beit_jax.from_pretrained(tmp_path / "out", heads=4)
    with pytest.raises(UserError, match="found --heads=0, expected at least 1"):
        convert([str(file), str(tmp_path / "x"), "--to=beit_jax", "--heads=0"])


def test_nests_within_nests():
    """Which fine-tuned models of BEiT v2 have."""
    state = {"a": state_dicts.StoredTensor.__new__(state_dicts.StoredTensor)}
    for content in (
        state,
        {"model": state},
        {"model": {"module": state}},
        {"module": {"model": {"state_dict": state}}},
    ):
        assert state_dicts.choose_nest(content, state_dicts.StateDict({}, {}, [])) is state
    too_deep = {"model": {"model": {"model": {"model": state}}}}
    assert state_dicts.choose_nest(too_deep, state_dicts.StateDict({}, {}, [])) is too_deep


def test_heads_of_a_published_width_are_named_as_assumed(tmp_path, capsys):
    state, params = state_of("classify", "unilm", "192x1x3/4", "absolute")
    model, *_ = assert_loads(write(tmp_path, state), params)
    assert model.encoder.heads == 3 and "assumed are 3, as of BEiT and DeiT" in capsys.readouterr().err
    # A width of this library's own small sizes is no published one.
    state, _ = state_of("classify", "unilm", "Micro/4", "absolute")
    with pytest.raises(UserError, match="width 32 is not one of 192, 384, 768, 1024"):
        beit_jax.from_pretrained(write(tmp_path, state))


def test_heads_of_a_table_are_taken(tmp_path, capsys):
    state, params = state_of("classify", "unilm", "64x2x8/4")
    file = write(tmp_path, state)
    assert assert_loads(file, params).model.encoder.heads == 8
    assert "attention heads" not in capsys.readouterr().err
    with pytest.raises(UserError, match="8 by its table of relative positions, 4 by heads; expected one"):
        beit_jax.from_pretrained(file, heads=4)


@pytest.mark.parametrize(
    ("task", "layout", "more"),
    [
        ("classify", "hf", "beit.embeddings.mask_token"),
        ("classify", "hf", "layernorm.weight"),
        ("classify", "unilm", "mask_token"),
        ("classify", "unilm", "lm_head.weight"),
        ("segment", "hf", "beit.embeddings.mask_token"),
        ("segment", "hf", "beit.pooler.layernorm.bias"),
        ("segment", "unilm", "backbone.mask_token"),
        ("pretrain", "hf", "beit.pooler.layernorm.bias"),
    ],
)
def test_what_another_model_left_behind_is_named_and_not_read(tmp_path, task, layout, more, capsys):
    state, params = state_of(task, layout, positions="per_block")
    assert_loads(write(tmp_path, state | {more: np.ones(3, np.float32)}), params)
    assert f"not used, as this model does not read them: {more}\n" in capsys.readouterr().err


@pytest.mark.parametrize("more", ["blocks.0.attn.k_norm.weight", "fc_norm.gain", "decode_head.x", "norm.weight"])
def test_other_tensors_are_not_left_out(tmp_path, more):
    state, _ = state_of("classify", "unilm")
    with pytest.raises(UserError, match=f"unexpected: {more}"):
        beit_jax.from_pretrained(write(tmp_path, state | {more: np.ones(3, np.float32)}))


def alone(state):
    """The encoder alone, as transformers' `BeitModel` calls it."""
    return {name.removeprefix("beit."): value for name, value in state.items() if not name.startswith("classifier")}


def encoder_only(params):
    return {name: value for name, value in params.items() if not name.startswith("head/")}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("layout", ["hf", "unilm"])
def test_an_encoder_alone_gets_a_new_head(tmp_path, pooling, layout, capsys):
    state, params = state_of("classify", layout, pooling=pooling)
    state = alone(state) if layout == "hf" else {k: v for k, v in state.items() if not k.startswith("head.")}
    file = write(tmp_path, state)
    with pytest.raises(UserError, match=r"beit.safetensors is an encoder without a head, .*num_classes"):
        beit_jax.from_pretrained(file)
    loaded = beit_jax.from_pretrained(file, num_classes=5)
    found = flatten(loaded.params)
    assert found["head/kernel"].shape == (32, 5) and loaded.config.model.pooling == pooling
    assert "it has no head; a new one of 5 classes was made" in capsys.readouterr().err
    for name, value in encoder_only(params).items():
        np.testing.assert_array_equal(found[name], value)
    if layout == "hf" and pooling == "mean":
        convert([str(file), str(tmp_path / "out"), "--to=beit_jax", "--num_classes=5"])
        again = flatten(beit_jax.from_pretrained(tmp_path / "out").params)
        np.testing.assert_array_equal(again["head/kernel"], found["head/kernel"])


def test_an_encoder_without_norms_gets_one(tmp_path):
    """As of `BeitModel(add_pooling_layer=False)`."""
    state, params = state_of("classify", "hf")
    file = write(tmp_path, {name: value for name, value in alone(state).items() if not name.startswith("pooler")})
    found = flatten(beit_jax.from_pretrained(file, num_classes=5).params)
    np.testing.assert_array_equal(found["fc_norm/scale"], np.ones(32))
    np.testing.assert_array_equal(found["encoder/cls_token"], params["encoder/cls_token"])


IN_MEMORY = (  # of transformers 5, in the order of replacement
    ("attention.attention.relative_position_bias", "relative_position_bias"),
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    (".output.dense", ".mlp.fc2"),
    ("encoder.relative_position_bias", "shared_position_bias"),
    ("encoder.layer.", "layers."),
    ("decode_head.bottleneck.", "decode_head.psp_bottleneck."),
    *((f"psp_modules.{i}.1.", f"psp_modules.blocks.{i}.conv.") for i in range(4)),
    (".bn.", ".normalization."),
    (".conv.weight", ".convolution.weight"),
    ("fpn1.0.", "fpn.fpn1.conv_transpose1."),
    ("fpn1.1.", "fpn.fpn1.normalization."),
    ("fpn1.3.", "fpn.fpn1.conv_transpose2."),
    ("fpn2.0.", "fpn.fpn2."),
)


@pytest.mark.parametrize(
    ("task", "positions"), [("classify", "per_block"), ("pretrain", "shared"), ("segment", "per_block")]
)
def test_names_in_the_memory_of_transformers_5(tmp_path, task, positions):
    state, params = state_of(task, "hf", positions=positions)
    renamed = {}
    for name, value in state.items():
        for published, in_memory in IN_MEMORY:
            name = name.replace(published, in_memory)
        renamed[name] = value
    assert "beit.layers.1.attention.q_proj.bias" in renamed and len(renamed) == len(state)
    assert_loads(write(tmp_path, renamed), params)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net."]
)
@pytest.mark.parametrize("layout", ["unilm", "hf"])
def test_prefixes_of_wrappers(tmp_path, prefix, layout):
    state, params = state_of("classify", layout)
    file = write(tmp_path, {f"{prefix}{name}": value for name, value in state.items()})
    assert_loads(file, params)
    if prefix == "module.":
        with pytest.raises(UserError, match="holds some tensors twice, with and without a prefix"):
            beit_jax.from_pretrained(write(tmp_path, state | {f"module.{name}": state[name] for name in state}))


def test_a_compiled_block_within_the_model():
    """`torch.compile` of submodules puts its prefix in the middle of names."""
    found = state_dicts.named_as_published({"blocks.0._orig_mod.norm1.weight": np.ones(3)}, "x").tensors
    assert list(found) == ["blocks.0.norm1.weight"]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_floats_of_other_widths(tmp_path, dtype):
    state, params = state_of("classify", "unilm")
    expected = {name: value.astype(dtype).astype(np.float32) for name, value in params.items()}
    assert_loads(write(tmp_path, {name: value.astype(dtype) for name, value in state.items()}), expected)


def test_numbers_that_are_no_weights_are_one_line(tmp_path):
    state, _ = state_of("classify", "unilm")
    name = "blocks.1.mlp.fc1.weight"
    for changes, message in [
        ({name: np.ones_like(state[name], dtype=np.int8)}, rf"holds {name} \(int8\); .*quantized"),
        ({name: state[name].astype(np.complex64)}, rf"holds {name} \(complex64\); expected floating"),
        ({name: state[name].astype(np.float64) * 1e300}, rf"holds -?inf in {name} at .*; expected finite numbers"),
        ({name: np.ones((), np.float32)}, rf"of another shape: {name} \(\)"),
        (
            {name: np.ones((0, 32), np.float32)},
            rf"has {name} of the shape \(0, 32\); expected tensors",
        ),
        ({"cls_token": np.ones((), np.float32)}, r"cls_token is of the shape \(\), expected 3 axes"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            beit_jax.from_pretrained(write(tmp_path, state | changes))
        assert "\n" not in str(error.value)
    for framework in ("flax", "mlx", "tf"):
        with pytest.raises(UserError, match=f"written for the framework '{framework}'"):
            beit_jax.from_pretrained(write(tmp_path, state, {"format": framework}))
    beit_jax.from_pretrained(write(tmp_path, state, {"note": "of no framework"}))


def test_images_that_are_not_square_are_one_line(tmp_path):
    state, params = state_of("classify", "unilm")
    tables = [f"blocks.{i}.attn.relative_position_bias_table" for i in range(2)]

    def with_tables(rows, columns):
        shape = ((2 * rows - 1) * (2 * columns - 1) + 3, 2)
        return state | {name: np.ones(shape, np.float32) for name in tables}

    with pytest.raises(UserError, match="has 24 relative positions, which no square image has"):
        beit_jax.from_pretrained(write(tmp_path, with_tables(2, 4)))
    hidden = with_tables(1, 5)  # as large as that of 2x2 patches
    name = "blocks.0.attn.relative_position_index"
    with pytest.raises(UserError, match=rf"{name} that is not of 2x2 patches; expected a model of square images of 8"):
        beit_jax.from_pretrained(write(tmp_path, hidden | {name: relative_position_index((1, 5))}))
    assert_loads(write(tmp_path, state | {name: relative_position_index((4, 4))}), params)
    state, _ = state_of("classify", "unilm", "192x1x3/4", "absolute")
    with pytest.raises(UserError, match="has 9 positions, which no square image has"):
        beit_jax.from_pretrained(write(tmp_path, state | {"pos_embed": np.ones((1, 9, 192), np.float32)}))
    both = with_tables(2, 2) | {"pos_embed": np.ones((1, 17, 32), np.float32)}
    with pytest.raises(UserError, match="12 relative positions and 17 positions, which are of two sizes"):
        beit_jax.from_pretrained(write(tmp_path, both))
