"""Checkpoints in and out without torch."""

import json
import subprocess
import sys

import numpy as np
import pytest
from patience import PATIENCE_S
from PIL import Image
from random_models import config as pretrained_config
from random_models import pretrained
from safetensors.numpy import load_file

import beit_jax
from beit_jax import evaluate
from beit_jax.config import fill_in_sizes, tokenizer_image_size
from beit_jax.config.pretrain import num_masked
from beit_jax.convert import preprocessing
from beit_jax.convert.__main__ import main as convert
from beit_jax.convert.layouts import task_layout
from beit_jax.data import pipeline
from beit_jax.errors import UserError
from beit_jax.tasks import create_task
from beit_jax.training.params import flatten


def assert_same(left, right):
    left, right = flatten(left), flatten(right)
    assert set(left) == set(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.mark.parametrize("format", ["hf", "beit_jax", "timm"])
@pytest.mark.parametrize(
    ("task", "positions"),
    [("pretrain", "shared"), ("classify", "per_block"), ("classify", "absolute"), ("segment", "per_block")],
)
def test_there_and_back(tmp_path, format, task, positions):
    model, params, config = pretrained(task, positions=positions)
    if format == "timm" and task != "classify":
        with pytest.raises(
            UserError, match=f"no layout for models of the task '{task}'; expected beit_jax or safetensors or hf"
        ):
            beit_jax.save_pretrained(tmp_path / "out", params, config, format=format)
        return
    beit_jax.save_pretrained(tmp_path / "out", params, config, format=format)
    again = beit_jax.from_pretrained(tmp_path / "out")
    assert_same(again.params, params)
    assert again.model == model
    assert again.config.preprocess == config.preprocess
    if format != "beit_jax":
        beit_jax.save_pretrained(tmp_path / "again", again.params, again.config, format=format)
        first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
        assert set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)
        assert (tmp_path / "out" / "config.json").read_text() == (tmp_path / "again" / "config.json").read_text()


@pytest.mark.parametrize(
    ("task", "source"),
    [
        ("tokenizer", "digits"),
        ("pretrain", "digits"),
        ("pretrain_pixels", "digits"),
        ("classify", "digits"),
        ("segment", "digit_scenes"),
    ],
)
def test_ops_of_a_converted_model_make_what_its_task_takes(task, source):
    """Its config comes with evaluation ops that do the preprocessing; only the data must be named."""
    config = pretrained_config(task)
    config.data.source, config.data.eval_split = source, "test"
    config.data.eval_ops = task_layout(task).eval_ops(config)
    made = pipeline.spec(config.data, "test", fill_in_sizes(config).data.eval_ops)
    for name, spec in create_task(config).eval_spec(1).items():
        assert made[name] == (spec.shape, spec.dtype)


def test_a_converted_classifier_is_evaluated(tmp_path, capsys):
    """A run folder holds the preprocessing as evaluation ops."""
    _, params, config = pretrained("classify", classes=10)
    beit_jax.save_pretrained(tmp_path / "run", params, config, format="beit_jax")
    data = ["--config.data.source=digits", "--config.data.eval_split=test"]
    evaluate.main([f"--checkpoint={tmp_path}/run", *data, "--config.batch_size=64"])
    assert json.loads(capsys.readouterr().out)["images"] == 359


def test_preprocessing():
    config = pretrained("classify").config.preprocess
    images = [Image.new("RGB", (30, 20), (255, 0, 127)), Image.new("L", (16, 50), 255)]
    pixels = beit_jax.preprocess(images, config)
    assert pixels.shape == (2, 16, 16, 3) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[0, 3, 3], [1.0, -1.0, 127 / 127.5 - 1], atol=1e-6)
    assert pixels[1].min() == 1.0
    invisible = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert beit_jax.preprocess([invisible], config).min() == 1.0
    assert beit_jax.preprocess([invisible], {**config, "background": None}).max() == -1.0


def test_from_pretraining_to_a_classifier_of_another_size(tmp_path):
    _, source, config = pretrained("pretrain", positions="shared")
    beit_jax.save_pretrained(tmp_path / "hf", source, config)
    model, params, changed = beit_jax.from_pretrained(tmp_path / "hf", "classify", num_classes=5, image_size=24)
    flat = flatten(params)
    assert changed.model.relative_position == "per_block" and changed.preprocess.size == 24
    assert flat["encoder/blocks/attn/relative_position/table"].shape == (2, 11 * 11 + 3, 2)
    assert flat["head/kernel"].shape == (32, 5) and "encoder/norm/scale" not in flat
    np.testing.assert_array_equal(flat["fc_norm/scale"], np.ones(32))
    name = "encoder/blocks/mlp/fc1/kernel"
    np.testing.assert_array_equal(flat[name], flatten(source)[name])
    assert model.apply({"params": params}, np.zeros((1, 24, 24, 3), np.float32)).shape == (1, 5)
    larger = beit_jax.from_pretrained(tmp_path / "hf", image_size=32, resize="hf")
    assert tokenizer_image_size(larger.config) == 64 and num_masked(larger.config) == 24
    for changes, message in [
        (dict(task="classify"), "give num_classes"),
        (dict(num_classes=3), "the model is no classifier"),
        (dict(image_size=32, resize="x"), "resize='x'; expected one of official, timm, hf"),
    ]:
        with pytest.raises(UserError, match=message):
            beit_jax.from_pretrained(tmp_path / "hf", **changes)


def test_beit_v2_has_no_layout_elsewhere(tmp_path):
    _, source, config = pretrained("pretrain")
    config = config.copy_and_resolve_references()
    config.model.early_layer = 1
    with pytest.raises(UserError, match=r"'hf' has no layout for models of the task 'pretrain'; expected .* or unilm$"):
        beit_jax.save_pretrained(tmp_path / "out", source, config, format="hf")


def test_a_model_without_other_layouts(tmp_path):
    """Regression on pixels is read and written as a run of this library, and can become a classifier."""
    _, source, config = pretrained("pretrain_pixels")
    beit_jax.save_pretrained(tmp_path / "run", source, config, format="beit_jax")
    assert_same(beit_jax.from_pretrained(tmp_path / "run").params, source)
    params = beit_jax.from_pretrained(tmp_path / "run", "classify", num_classes=3).params
    np.testing.assert_array_equal(params["encoder"]["cls_token"], source["encoder"]["cls_token"])
    for format in ("hf", "timm", "dalle"):
        message = (
            f"'{format}' has no layout for models of the task 'pretrain_pixels'; expected beit_jax or safetensors$"
        )
        with pytest.raises(UserError, match=message):
            beit_jax.save_pretrained(tmp_path / "out", source, config, format=format)
    with pytest.raises(UserError, match=r"cannot become one of 'segment'.*; expected pretrain_pixels or"):
        beit_jax.from_pretrained(tmp_path / "run", "segment")


def test_another_number_of_classes_keeps_the_rest(tmp_path):
    _, params, config = pretrained("classify")
    beit_jax.save_pretrained(tmp_path / "hf", params, config)
    new = flatten(beit_jax.from_pretrained(tmp_path / "hf", num_classes=3).params)
    assert new["head/kernel"].shape == (32, 3)
    np.testing.assert_array_equal(new["fc_norm/scale"], params["fc_norm"]["scale"])
    with pytest.raises(UserError, match="'classify' cannot become one of 'pretrain'"):
        beit_jax.from_pretrained(tmp_path / "hf", task="pretrain")
    with pytest.raises(UserError, match="image_size=18 is not divisible by the patch size 4"):
        beit_jax.from_pretrained(tmp_path / "hf", image_size=18)


@pytest.mark.parametrize(
    ("ops", "section"),
    [
        (
            "decode|resize_small(18)|central_crop(16)|normalize('imagenet')",
            dict(resize=18, keep_ratio=True, mean=0.485),
        ),
        ('decode | resize(20, "bilinear") | normalize(0.5, 0.25)', dict(resize=20, keep_ratio=False, std=0.25)),
        ("decode|resize(size=16, method='lanczos')|keep('image')", dict(interpolation="lanczos", mean=0.5)),
        ("decode|two_views_center(16, 8)|normalize((0.1, 0.2, 0.3), (1, 1, 1))", dict(resize=18, mean=0.1)),
        ("decode|two_views_center(16, 8, tokenizer_method='bicubic')|normalize", dict(resize=18, mean=0.5)),
        ("decode|two_views_center(16, 8, fraction=0.5, tokenizer_method='bicubic')", dict(resize=32)),
        ("decode|resize_small(method='lanczos', size=20)", dict(resize=20, interpolation="lanczos")),
        ("decode(None, exif_transpose=False)|resize(16)", dict(background=None, exif_transpose=False)),
        ("decode(background=(1, 2, 3))|resize(16)", dict(background=(1, 2, 3), exif_transpose=True)),
        ("", dict(resize=18, keep_ratio=True, background=255, exif_transpose=True)),
    ],
)
def test_preprocessing_out_of_ops(ops, section):
    found = preprocessing.from_ops(ops, 16)
    for key, value in section.items():
        assert (found[key][0] if key in ("mean", "std") else found[key]) == value


def test_existing_targets_are_kept_and_failures_leave_nothing(folder, tmp_path, monkeypatch):
    _, params, config = pretrained("classify")
    before = (folder / "config.json").read_bytes()
    with pytest.raises(UserError, match="exists; choose another"):
        beit_jax.save_pretrained(folder, params, config)
    assert (folder / "config.json").read_bytes() == before

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("beit_jax.convert.settings.to_hf", fail)
    with pytest.raises(UserError, match="new cannot be written: disk full; choose another folder"):
        beit_jax.save_pretrained(tmp_path / "new", params, config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


def test_without_torch(folder, tmp_path, repository):
    """Files of PyTorch are read too; to write them, one line says what to install."""
    golden = repository / "tests" / "golden"
    code = f"""
import importlib.util, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "timm"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
import beit_jax
model, params, config = beit_jax.from_pretrained({str(folder)!r})
for format in ("hf", "timm", "beit_jax"):
    beit_jax.save_pretrained({str(tmp_path)!r} + "/new_" + format, params, config, format=format)
beit_jax.from_pretrained({str(tmp_path)!r} + "/new_beit_jax")
for name in ("official.pth", "official_legacy.pth"):
    print(beit_jax.from_pretrained({str(golden)!r} + "/" + name).config.model.variant)
try:
    beit_jax.save_pretrained({str(tmp_path)!r} + "/u", params, config, format="unilm")
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    lines = done.stdout.strip().splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[:2] == ["8x2x2/4", "8x2x2/4"]
    assert lines[2].startswith("UserError") and ".[parity]" in lines[2]


def test_the_command(folder, tmp_path, capsys):
    convert([str(folder), str(tmp_path / "timm"), "--to", "timm"])
    assert "classify" in capsys.readouterr().out and (tmp_path / "timm" / "config.json").exists()
    with pytest.raises(UserError, match="invalid choice: 'onnx'"):
        convert([str(folder), str(tmp_path / "x"), "--to", "onnx"])
