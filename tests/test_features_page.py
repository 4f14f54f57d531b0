"""What docs/features.md shows: its blocks run one after the other, the last one in a process without this library."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from image_models import make_images, save
from test_docs import ROOT, blocks
from test_imports import BLOCK

import beit_jax
from beit_jax import embed

NAMES = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(1, 5)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The folder in which the blocks ran, the text of the last one, and the names that the others made."""
    folder = tmp_path_factory.mktemp("page")
    *code, last = blocks(ROOT / "docs" / "features.md", "python")
    save(folder / "runs", "pretrain_pixels", name="pretrain")
    make_images(folder / "photos", NAMES)
    with (
        pytest.MonkeyPatch.context() as patch,
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        patch.chdir(folder)
        embed.main(["--checkpoint=runs/pretrain", "--images=photos", "--out=features.npz"])
        made = {}
        for text in code:
            exec(compile(text, "page", "exec"), made)
    return folder, last, made


def test_shapes_are_as_stated(page):
    made = page[2]
    shapes = {name: made[name].shape for name in ("vectors", "layers", "maps", "wide", "tokens")}
    assert shapes == dict(
        vectors=(2, 32), layers=(2, 2, 32), maps=(2, 4, 4, 32), wide=(2, 4, 8, 32), tokens=(2, 17, 32)
    )


def test_classifiers_and_the_loop_learn(page):
    made = page[2]
    assert made["linear"].score(made["train"], made["train_labels"]) == 1.0 and made["knn"].n_features_in_ == 32
    assert made["losses"][0] == pytest.approx(np.log(2), rel=1e-4) and made["losses"][-1] < made["losses"][0] - 0.05
    before, after = made["encoder_params"]["cls_token"], made["learned"]["encoder"]["cls_token"]
    assert np.abs(before - after).max() > 1e-5


def test_a_frozen_encoder_stays(page):
    (text,) = [text for text in blocks(ROOT / "docs" / "features.md", "python") if "frozen, labels = False" in text]
    made = {name: page[2][name] for name in ("beit_jax", "model", "params", "pixels")}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(text.replace("frozen, labels = False", "frozen, labels = True"), "page", "exec"), made)
    jax.tree.map(np.testing.assert_array_equal, made["learned"]["encoder"], made["encoder_params"])
    assert made["losses"][-1] < made["losses"][0]


def test_nnx_computes_the_same(page):
    made = page[2]
    expected = made["encoder"].apply({"params": made["encoder_params"]}, made["pixels"])
    np.testing.assert_allclose(made["tokens"], expected, atol=1e-5)


def test_the_exported_program_runs_without_this_library(page):
    folder, last, made = page
    code = BLOCK.format(blocked={"beit_jax", "flax", "tensorflow", "ml_collections"}) + last
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(folder / "vectors.npy")
    np.testing.assert_allclose(found, made["vectors"], atol=1e-5)
    assert beit_jax.__name__ not in last
