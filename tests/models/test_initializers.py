"""Initial weights against the statistics measured on the official code (base, pre-training and fine-tuning)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beit_jax.models import classifier, heads, vit
from beit_jax.models.initializers import initializers
from beit_jax.runtime.run_once import run_once

CUT = 0.02 * 0.539560  # deviation of a normal of 0.02 cut at one deviation


@pytest.fixture(scope="module")
def encoders():
    """Parameters of both schemes at a quarter of base's width and full depth."""

    def init(scheme):
        encoder = vit.Encoder(192, 12, 3, 16, init_scheme=scheme, mask_token=True, absolute_positions=True)
        return run_once(encoder.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"]

    return {scheme: jax.tree.map(np.asarray, init(scheme)) for scheme in ("pretrain", "finetune")}


def test_pretraining(encoders):
    params = encoders["pretrain"]
    blocks = params["blocks"]
    for kernel in (blocks["attn"]["qkv"]["kernel"], blocks["mlp"]["fc1"]["kernel"], params["patch_embed"]["kernel"]):
        np.testing.assert_allclose(kernel.std(), CUT, rtol=0.01)
        assert 0.0199 < np.abs(kernel).max() <= 0.02
    np.testing.assert_allclose(params["pos_embed"].std(), CUT, rtol=0.02)
    for token in ("cls_token", "mask_token"):
        np.testing.assert_allclose(params[token].std(), CUT, rtol=0.15)
    assert not params["patch_embed"]["bias"].any()


def test_finetuning(encoders):
    params = encoders["finetune"]
    np.testing.assert_allclose(params["blocks"]["attn"]["qkv"]["kernel"].std(), 0.02, rtol=0.01)
    np.testing.assert_allclose(params["blocks"]["mlp"]["fc2"]["kernel"][-1].std(), 0.00409, rtol=0.01)
    bound = 768**-0.5
    for value in (params["patch_embed"]["kernel"], params["patch_embed"]["bias"]):
        np.testing.assert_allclose(value.std(), bound / np.sqrt(3), rtol=0.15)
        assert 0.97 * bound < np.abs(value).max() <= bound


@pytest.mark.parametrize("scheme", ["pretrain", "finetune"])
def test_ends_of_branches_shrink_with_depth(encoders, scheme):
    blocks = encoders[scheme]["blocks"]
    expected = (CUT if scheme == "pretrain" else 0.02) / np.sqrt(2 * np.arange(1, 13))
    for kernel in (blocks["attn"]["proj"]["kernel"], blocks["mlp"]["fc2"]["kernel"]):
        np.testing.assert_allclose(kernel.reshape(12, -1).std(axis=1), expected, rtol=0.02)
    if scheme == "pretrain":
        np.testing.assert_allclose(expected[[0, 11]], [0.00763, 0.00220], rtol=2e-3)  # measured on the official code


@pytest.mark.parametrize("scheme", ["pretrain", "finetune"])
def test_no_two_layers_start_alike(encoders, scheme):
    blocks = encoders[scheme]["blocks"]
    for kernel in (blocks["attn"]["qkv"], blocks["attn"]["proj"], blocks["mlp"]["fc1"], blocks["mlp"]["fc2"]):
        rows = kernel["kernel"].reshape(12, -1)
        correlation = np.corrcoef(rows) - np.eye(12)
        assert np.abs(correlation).max() < 0.05


@pytest.mark.parametrize("scheme", ["pretrain", "finetune"])
def test_what_starts_at_zero_or_one(encoders, scheme):
    for path, value in jax.tree_util.tree_leaves_with_path(encoders[scheme]):
        name = "/".join(key.key for key in path)
        if name.endswith("scale"):
            assert np.all(value == 1.0), name
        elif name.endswith("bias") and not name.startswith("patch_embed"):
            assert not value.any(), name
        elif "gamma" in name:
            assert np.all(value == np.float32(0.1)), name


def test_heads():
    encoder = vit.Encoder(192, 1, 3, 4, mask_token=True)
    images = jnp.zeros((1, 8, 8, 3))
    model = heads.MaskedImageModel(encoder, vocab=1000)
    kernel = np.asarray(run_once(model.init, jax.random.key(0), images, None)["params"]["lm_head"]["kernel"])
    np.testing.assert_allclose(kernel.std(), CUT, rtol=0.01)
    encoder = vit.Encoder(192, 1, 3, 4, init_scheme="finetune", final_norm=False)
    model = classifier.ImageClassifier(encoder, num_classes=1000)
    params = run_once(model.init, jax.random.key(0), images)["params"]
    np.testing.assert_allclose(np.asarray(params["head"]["kernel"]).std(), 2e-5, rtol=0.01)
    assert not np.any(params["head"]["bias"])


def test_unknown_scheme():
    with pytest.raises(ValueError, match="'pretrain' or 'finetune'"):
        initializers("bert", 16)
