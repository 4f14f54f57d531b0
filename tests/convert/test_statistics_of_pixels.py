"""What a checkpoint says about its pixels is taken as its library takes it; what it does not say is told."""

import json

import pytest
from random_models import pretrained

import beit_jax
from beit_jax.convert import preprocessing
from beit_jax.errors import UserError
from beit_jax.models.pixel_statistics import STATISTICS

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
