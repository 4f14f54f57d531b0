import json
import random
import subprocess
import sys

import numpy as np
import pytest
from patience import PATIENCE_S
from PIL import Image

from beit_jax.benchmarks import input_pipeline, pillow_baseline
from beit_jax.errors import UserError


@pytest.mark.slow
@pytest.mark.usefixtures("in_the_checkout")
def test_input():
    command = ["-m", "beit_jax.benchmark", "input", "--vs", "pil", "--json", "--images", "4", "--rounds", "1"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert "4 JPEG files of 500x380" in done.stdout and "times pil" in done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found["official"])[:4] == ["decode", "color_jitter", "flip_lr", "two_views"]
    assert list(found["fast"]) == ["decode_view", "flip_lr", "batches", "total"]
    assert list(found["pil"]) == ["decode", "jitter", "views", "arrays", "mask", "total"]
    for mode in ("official", "fast"):
        assert found[mode]["total"] == pytest.approx(sum(found[mode].values()) - found[mode]["total"])
        assert found["vs"][mode] == pytest.approx(found["pil"]["total"] / found[mode]["total"])
        assert 0 < found[mode]["total"] < 500


def test_files(tmp_path):
    kilobytes = input_pipeline.make_files(tmp_path, 12)
    assert 60 < kilobytes < 110
    sizes = [Image.open(path).size for path in sorted(tmp_path.iterdir())]
    assert sizes[:3] == [(380, 500), (500, 380), (500, 380)] and len(sizes) == 12


def test_mistakes():
    with pytest.raises(UserError, match="--images: found '0'"):
        input_pipeline.main(["--images", "0"])
    with pytest.raises(UserError, match=r"nowhere\.py"):
        input_pipeline.main(["--config", "nowhere.py", "--images", "1"])


def test_the_baseline_is_the_official_preprocessing(tmp_path):
    input_pipeline.make_files(tmp_path, 1)
    made, source = str(tmp_path / "0000.jpg"), random.Random(0)
    half = ((0.5,) * 3, (0.5,) * 3)
    for name, stage in pillow_baseline.stages(224, 112, half).items():
        made = stage(source, made)
        if name == "decode":
            assert made.size == (380, 500)
    assert (made["image"].shape, made["image"].dtype) == ((3, 224, 224), np.float32)
    assert -1 <= made["image"].min() < 0 < made["image"].max() <= 1
    assert made["tokenizer_image"].shape == (3, 112, 112)
    assert np.abs(made["tokenizer_image"] - 0.5).max() <= 0.4 + 1e-6
    assert 60 < made["mask"].sum() <= 75
    fractions = [
        (right - left) * (lower - upper) / 500 / 380
        for left, upper, right, lower in (pillow_baseline.random_box(source, 500, 380) for _ in range(500))
    ]
    assert abs(np.mean(fractions) - 0.438) < 0.03  # 200,000 draws of the rule, vectorised in NumPy, gave 0.4377


def test_official_masks_follow_the_rule():
    source = random.Random(0)
    counts = np.array([pillow_baseline.official_mask(source, (14, 14), 75, 16).sum() for _ in range(3000)])
    assert counts.max() == 75
    assert abs(counts.mean() - 74.475) < 0.07
