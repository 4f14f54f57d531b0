"""What a checkpoint says about its pixels is taken as its library takes it; what it does not say is told."""

import json

import jax
import numpy as np
import pytest
import tiny
from random_models import config as config_of
from random_models import pretrained

import beit_jax
from beit_jax.convert import names, preprocessing, safetensors_file
from beit_jax.convert.__main__ import main as convert
from beit_jax.errors import UserError
from beit_jax.models.pixel_statistics import STATISTICS
from beit_jax.tasks import create_task
from beit_jax.training.params import flatten

HALF, IMAGENET = STATISTICS["inception"], STATISTICS["imagenet"]
ASSUMED = "does not state the statistics of pixels; assumed are mean (0.5, 0.5, 0.5)"


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ({}, dict(resize=224, keep_ratio=False, interpolation="bicubic", mean=HALF[0])),
        ({"image_mean": IMAGENET[0], "image_std": IMAGENET[1]}, dict(mean=IMAGENET[0], std=IMAGENET[1])),
        ({"size": 256, "do_center_crop": True}, dict(resize=256, keep_ratio=False)),
        ({"size": 256, "do_center_crop": True, "default_to_square": False}, dict(resize=256, keep_ratio=True)),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, dict(keep_ratio=True)),
        ({"size": 256}, "size=256 and no crop; expected .* images of 224x224"),
        ({"size": {"shortest_edge": 224}}, "no crop; expected"),
        ({"size": {"height": 256, "width": 224}, "do_center_crop": True}, "expected a size"),
        ({"size": 256, "do_center_crop": True, "crop_size": {"height": 192, "width": 192}}, "crop_size=.*192"),
        ({"size": 256, "do_center_crop": True, "crop_size": [[224]]}, r"crop_size=\[\[224\]\]"),
        ({"size": 256, "do_center_crop": True, "crop_size": {}}, "crop_size={}"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor=0.0078.*; expected 1/255"),
        ({"image_mean": [0.5]}, r"image_mean=\[0.5\]; expected a number for each of three channels"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std"),
    ],
)
def test_preprocessor_config_of_transformers(file, expected):
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            preprocessing.from_hf(file, 224)
    else:
        section = preprocessing.from_hf(file, 224)
        assert {key: section[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ({}, dict(resize=256, keep_ratio=True, mean=IMAGENET[0], std=IMAGENET[1])),  # of `PretrainedCfg`
        ({"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9}, dict(resize=248, mean=HALF[0])),
        ({"crop_mode": "squash", "crop_pct": 1.0}, dict(resize=224, keep_ratio=False)),
        ({"crop_mode": "border"}, "crop_mode='border'; expected center or squash"),
        ({"interpolation": "hamming"}, "interpolation='hamming'; expected"),
        ({"crop_pct": 0}, "crop_pct=0; expected"),
        ({"mean": [0.5, 0.5]}, r"mean=\[0.5, 0.5\]"),
    ],
)
def test_pretrained_cfg_of_timm(file, expected):
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            preprocessing.from_timm(file, 224)
    else:
        section = preprocessing.from_timm(file, 224)
        assert {key: section[key] for key in expected} == expected


@pytest.mark.parametrize("format", ["hf", "timm"])
def test_a_file_alone_and_its_statistics(tmp_path, capsys, format):
    _, params, config = pretrained("classify")
    config.preprocess.mean, config.preprocess.std = IMAGENET
    beit_jax.save_pretrained(tmp_path / "out", params, config, format=format)
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / "out" / name).unlink(missing_ok=True)
    loaded = beit_jax.from_pretrained(tmp_path / "out")
    assert loaded.config.preprocess.mean == HALF[0]
    printed = capsys.readouterr().err
    assert ASSUMED in printed and str(tmp_path / "out") in printed
    assert loaded.config.model.norm_eps == (1e-12 if format == "hf" else 1e-6)
    assert ("epsilon of its layer norms; assumed is 1e-12" in printed) == (format == "hf")
    stated = preprocessing.to_hf(config.preprocess)
    (tmp_path / "out" / "preprocessor_config.json").write_text(json.dumps(stated))
    assert beit_jax.from_pretrained(tmp_path / "out").config.preprocess == config.preprocess
    assert "statistics" not in capsys.readouterr().err


def bare(path, config=None, **settings):
    """Weights of a classifier, or zeros for another config, in the official layout; settings beside them."""
    flat, task = flatten(pretrained("classify").params), "classify"
    if config is not None:
        shapes, task = flatten(jax.eval_shape(create_task(config).init, jax.random.key(0))), config.task
        flat = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
    safetensors_file.write_tensors(path, names.to_layout(flat, "unilm", task))
    if settings:
        path.with_name("config.json").write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("beitv2_base_patch16_224_pt1k_ft1k.safetensors", {}, IMAGENET),
        ("BEiT-v2.safetensors", {}, IMAGENET),
        ("beit2.safetensors", {}, IMAGENET),
        ("beit_base_patch16_224_pt22k_ft22kto1k.safetensors", {}, HALF),
        ("beit_224.safetensors", {}, HALF),
        ("x.safetensors", {"architecture": "beitv2_tiny"}, IMAGENET),
        ("x.safetensors", {"architecture": "beit_tiny"}, HALF),
        ("beitv2.safetensors", {"pretrained_cfg": {"mean": HALF[0], "std": HALF[1]}}, HALF),
    ],
)
def test_beit_v2_is_told_by_its_name(tmp_path, capsys, name, settings, expected):
    """Its tensors are those of BEiT, but all its published models have ImageNet's statistics."""
    section = beit_jax.from_pretrained(bare(tmp_path / name, **settings)).config.preprocess
    assert (section.mean, section.std) == expected
    told = capsys.readouterr().err
    assert ("those of all published models of BEiT v2" in told) == (expected == IMAGENET)
    assert ("of most published checkpoints" in told) == (expected == HALF and "pretrained_cfg" not in settings)


def test_a_pretraining_of_beit_v2_is_told_by_its_blocks(tmp_path):
    config = config_of("pretrain")
    config.model.early_layer = 1
    assert beit_jax.from_pretrained(bare(tmp_path / "x.safetensors", config)).config.preprocess.mean == IMAGENET[0]


def test_statistics_that_are_given(tmp_path, capsys):
    file = bare(tmp_path / "x.safetensors")
    given = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    loaded = beit_jax.from_pretrained(file, statistics=f"{given[0]}, {given[1]}")
    assert (loaded.config.preprocess.mean, loaded.config.preprocess.std) == given
    assert "statistics" not in capsys.readouterr().err
    convert([str(file), str(tmp_path / "run"), "--to=beit_jax", "--statistics=imagenet"])
    for again in ({}, {"statistics": "imagenet"}):
        section = beit_jax.from_pretrained(tmp_path / "run", **again).config.preprocess
        assert (section.mean, section.std) == IMAGENET
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 16, "image_mean": [0.7] * 3}))
    assert beit_jax.from_pretrained(file).config.preprocess.mean == (0.7, 0.7, 0.7)
    assert beit_jax.from_pretrained(file, statistics="inception").config.preprocess.mean == HALF[0]


def test_statistics_that_cannot_be_given(tmp_path):
    file, target = bare(tmp_path / "x.safetensors"), str(tmp_path / "out")
    _, params, config = pretrained("classify")
    beit_jax.save_pretrained(tmp_path / "run", params, config, format="beit_jax")
    vqkd = tiny.config("vqkd")
    tokenizer = bare(tmp_path / "vqkd.safetensors", vqkd)
    for source, arguments, message in [
        (file, ["--statistics=imagnet"], "--statistics='imagnet'; expected 'inception' or 'imagenet', or a mean and"),
        (
            file,
            ["--statistics=imagenet", "--teacher=clip"],
            "found --statistics with --teacher; expected it for a BEiT",
        ),
        (tmp_path / "run", ["--statistics=imagenet"], "is a run on pixels with the statistics inception, and others"),
        (tokenizer, ["--statistics=imagenet", "--heads=2"], "is a tokenizer, whose images are not normalized; leave"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            convert([str(source), target, "--to=beit_jax", *arguments])
        assert "\n" not in str(error.value)
