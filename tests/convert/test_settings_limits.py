"""Settings beside foreign weights that make no sense, or ask for more than the weights hold: one line each, at once."""

import json
import struct
import time

import ml_dtypes
import numpy as np
import pytest
from reliability.fuzz_reader import PREPROCESSOR, SETTINGS, TIMM, shapes
from safetensors.numpy import load_file, save_file

import beit_jax
from beit_jax import config as configs
from beit_jax.convert import settings_limits
from beit_jax.errors import UserError
from beit_jax.training.params import flatten


def check(settings, preprocessor=PREPROCESSOR, layout="hf"):
    settings_limits.check_settings(settings, preprocessor, shapes()[layout], "x")


def refused(message, *args):
    start = time.process_time()
    with pytest.raises(UserError, match=message) as error:
        check(*args)
    assert all(line.isprintable() and len(line) < 400 for line in error.value.lines)
    assert time.process_time() - start < 1


def test_sound_settings_are_accepted():
    check(SETTINGS), check({}, {}), check(TIMM, {}, "unilm")
    check(SETTINGS | dict(image_size=[16, 16], patch_size=[4, 4]))
    check(SETTINGS, dict(image_mean=0.5, image_std=0.5, size=24))


NAN, INFINITE, HUGE = float("nan"), float("inf"), 10**4000


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        (
            "num_hidden_layers",
            (10**9, HUGE, 0, -1, NAN),
            r"has num_hidden_layers=\S+ in config.json; expected 1 to 10, of which",
        ),
        ("hidden_size", (10**9, HUGE, 0, -32), "expected 1 to 128, the largest size of a tensor"),
        ("num_attention_heads", (10**9, 0, -1), "expected 1 to 128, the largest size of a tensor"),
        ("intermediate_size", (10**9, -128), "expected 1 to 128, the largest size of a tensor"),
        ("image_size", (10**9, HUGE, 0, -16, [16, -16], [10**9] * 2), "expected 1 to 8192 pixels"),
        ("image_size", (1024,), "a grid of patches whose positions have at most 128 rows, not 261124"),
        ("patch_size", (0, -4, 10**9, [0, 0]), "expected 1 to 8192 pixels"),
        ("layer_norm_eps", (NAN, INFINITE, -1e-6, 0, 0.0, 1e-30, HUGE), "expected at least 1e-20, such as 1e-12"),
        ("layer_scale_init_value", (NAN, INFINITE, -INFINITE, HUGE), "expected a number such as 0.1"),
        ("drop_path_rate", (NAN, -0.1, 1, 1.5, INFINITE, HUGE), "expected a number from 0 to below 1"),
        ("id2label", ({"1" * 5000: "a"},), "numbers of classes of at most 20 digits"),
        ("hidden_act", ("gelu" * 1000,), "expected at most 1000 characters"),
        ("out_indices", ([0] * 10**5,), "expected at most 1000 characters"),
    ],
)
def test_settings_of_transformers(key, values, message):
    for value in values:
        refused(message, SETTINGS | {key: value})


def test_every_mistake_is_told():
    with pytest.raises(UserError) as error:
        check(SETTINGS | dict(hidden_size=0, layer_norm_eps=NAN), PREPROCESSOR | dict(image_std=[0, 0, 0]))
    assert [line.split()[2].partition("=")[0] for line in error.value.lines] == [
        "hidden_size",
        "layer_norm_eps",
        "image_std",
    ]


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("image_std", (0, 0.0, -1, NAN, INFINITE, HUGE, [0.5, 0.5, 0]), "has image_std=.* numbers from 1e-06 to 1e"),
        ("image_std", ([0.5], [0.5] * 4, []), "expected three numbers"),
        ("image_mean", (NAN, INFINITE, HUGE, [0.5, 1e300, 0.5]), "has image_mean=.* numbers from -1e"),
        ("size", (10**9, 0, {"height": 10**9}, {"shortest_edge": HUGE}, NAN), "expected 1 to 8192 pixels"),
        ("resample", ([1], {}, True, "3\n", 3.0), "has resample=.* expected the number of a filter"),
    ],
)
def test_settings_of_images(key, values, message):
    for value in values:
        refused(message, SETTINGS, PREPROCESSOR | {key: value})


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("std", ([0, 0, 0], [NAN] * 3), "numbers from 1e-06 to"),
        ("std", (0.5, [0.5], ["x"] * 3, None), "expected three numbers"),
        ("crop_pct", (0, -1, 1e-9, NAN, INFINITE, 2, None, "1", True), "expected a fraction from 0.05 to 1"),
        ("interpolation", ([1], 3), "expected the name of a filter"),
    ],
)
def test_settings_of_timm(key, values, message):
    for value in values:
        refused(message, TIMM | dict(pretrained_cfg=TIMM["pretrained_cfg"] | {key: value}), {}, "unilm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "nested more than 32 deep"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested more than 32 deep"),
        (b'{"a": [' + b"[]," * 10 + b"]}", "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"a\n\x1b', "not valid JSON"),
        (b"3", "holds a int; expected an object"),
        (b" " * (9 << 20), "no file of at most 8 MiB"),
    ],
)
def test_files_of_settings(tmp_path, text, message):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(UserError, match=message) as error:
        settings_limits.read_settings(tmp_path / "config.json")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a":' * 500 + "1" + "}" * 500])
def test_a_config_of_ours_that_is_nested_too_deep(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="nested too deep"):
        configs.load(str(tmp_path / "config.json"))


def test_a_folder_in_place_of_settings(tmp_path):
    with pytest.raises(UserError, match="no file of at most"):
        settings_limits.read_settings(tmp_path)
    assert settings_limits.read_settings(tmp_path / "nothing.json") == {}


def test_refused_before_a_model_is_built(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | dict(num_hidden_layers=10**9, layer_norm_eps=NAN)))
    start = time.process_time()
    with pytest.raises(UserError) as error:
        beit_jax.from_pretrained(folder)
    assert len(error.value.lines) == 2 and time.process_time() - start < 5


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("blocks.99999999.gamma_1", (32,), "numbers of blocks below 5 with 5 tensors"),
        ("blocks." + "9" * 400 + ".gamma_1", (32,), "numbers of blocks below 5 with 5 tensors"),
        ("blocks.1.attn.relative_position_bias_table", (250_000, 1), "250000 rows; expected at most 16132"),
        ("pos_embed", (1, 1 << 40, 0), r"has pos_embed of the shape .* expected tensors that are not empty"),
        ("rel_pos_bias.relative_position_bias_table", (250_000, 1), "250000 rows; expected at most 16132"),
    ],
)
def test_models_that_names_and_shapes_ask_for(tmp_path, name, shape, message):
    state = {"cls_token": (1, 1, 32), "patch_embed.proj.weight": (32, 3, 4, 4), "head.weight": (3, 32)}
    state |= {"blocks.0.attn.relative_position_bias_table": (52, 2), name: shape}
    save_file({name: np.zeros(shape, np.float32) for name, shape in state.items()}, tmp_path / "w.safetensors")
    start = time.process_time()
    with pytest.raises(UserError, match=message):
        beit_jax.from_pretrained(tmp_path / "w.safetensors")
    assert time.process_time() - start < 5


def test_more_tensors_than_a_model_has():
    with pytest.raises(UserError, match="has 20001 tensors; expected at most 20000"):
        settings_limits.check_settings({}, {}, {str(number): (1,) for number in range(20_001)}, "x")


BIAS = "beit.encoder.layer.1.output.dense.bias"


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (BIAS, np.zeros(32, np.int64), rf"holds {BIAS} \(int64\); expected floating numbers"),
        (BIAS, np.zeros(32, np.bool_), r"\(bool\); expected floating"),
        (BIAS, np.zeros(32, np.complex64), r"\(complex64\); expected floating"),
        (BIAS, np.full(32, 1e300), rf"holds inf in {BIAS} at \[0\]; expected finite"),
        ("a\n\x1b[2J", np.zeros(1, np.float32), r"a tensor with the name a\\n\\x1b\[2J; expected"),
        ("a" * 5000, np.zeros(1, np.float32), "expected short, printable names"),
    ],
)
def test_tensors_that_are_no_weights(folder, name, values, message):
    state = load_file(folder / "model.safetensors")
    save_file(state | {name: values}, folder / "model.safetensors")
    with pytest.raises(UserError, match=message) as error:
        beit_jax.from_pretrained(folder)
    assert str(error.value).isprintable()


def test_headers_of_safetensors(folder):
    """Its own library checks shapes against the file; what it raises is one line."""
    file = folder / "model.safetensors"

    def header(dtype, shape, end, name="a"):
        text = json.dumps({name: dict(dtype=dtype, shape=shape, data_offsets=[0, end])}).encode()
        return struct.pack("<Q", len(text)) + text + bytes(16)

    for data, message in [
        (header("F32", [1 << 62, 4], 16), "cannot be read"),
        (header("F32", [1 << 63, 1 << 63], 16), "cannot be read"),
        (header("F32", [0, 1 << 62, 1 << 62], 0)[:-16], "cannot be read"),
        (header("F32", [-4], 16), "cannot be read"),
        (header("F32", [8], 32, "a\n"), "cannot be read"),
        (header("F8_E4M3", [16], 16), "numbers of 8 bits or fewer"),
        (header("F8_E8M0", [16], 16), "numbers of 8 bits or fewer"),
        (struct.pack("<Q", 1 << 62) + b"{}", "cannot be read"),
        (struct.pack("<Q", 100_000) + b"[" * 100_000, "cannot be read"),
    ]:
        file.write_bytes(data)
        with pytest.raises(UserError, match=message) as error:
            beit_jax.from_pretrained(folder)
        assert str(error.value).isprintable()


def test_bfloat16_is_read_as_float32(folder):
    before = flatten(beit_jax.from_pretrained(folder).params)
    state = load_file(folder / "model.safetensors")
    floating = {name: value for name, value in state.items() if value.dtype.kind == "f"}
    halves = {name: value.astype(ml_dtypes.bfloat16) for name, value in floating.items()}
    save_file(state | halves, folder / "model.safetensors")
    for name, value in flatten(beit_jax.from_pretrained(folder).params).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, before[name].astype(ml_dtypes.bfloat16).astype(np.float32))
