"""BEiT v2 beside the released code, run live, where the variable UNILM names a clone of it:

  git clone https://github.com/microsoft/unilm && UNILM=unilm pytest tests/convert/test_beside_unilm.py

Random weights go from its modules into a file and from there into ours; then both learn the same steps.
"""

import dataclasses
import functools
import importlib
import os
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.convert import from_pretrained
from beit_jax.training.params import flatten, join, split

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif("UNILM" not in os.environ, reason="UNILM names no clone of microsoft/unilm")
SIDE, PATCH, IMAGES, STEPS, RATE, CODES, TARGET = 16, 4, 3, 4, 0.3, 12, 10
SIZES = dict(img_size=SIDE, patch_size=PATCH, embed_dim=32, num_heads=2, mlp_ratio=4, qkv_bias=True)
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.uniform(0, 1, (STEPS, IMAGES, SIDE, SIDE, 3)).astype(np.float32)


@pytest.fixture
def released(monkeypatch):
    """Imports a module of the released code: what it takes from an old timm, and does not need, are stand-ins."""
    layers = types.SimpleNamespace(
        to_2tuple=lambda size: (size, size),
        trunc_normal_=torch.nn.init.trunc_normal_,
        drop_path=lambda x, rate, training: x,
    )
    constants = types.SimpleNamespace(
        IMAGENET_DEFAULT_MEAN=(0.485, 0.456, 0.406), IMAGENET_DEFAULT_STD=(0.229, 0.224, 0.225)
    )
    stands_in = {
        "timm": types.SimpleNamespace(),
        "timm.models": types.SimpleNamespace(),
        "timm.models.layers": layers,
        "timm.models.registry": types.SimpleNamespace(register_model=lambda function: function),
        "timm.data": types.SimpleNamespace(),
        "timm.data.constants": constants,
        "utils": types.SimpleNamespace(),
        "vqkd_teacher": types.SimpleNamespace(clip=None, get_dino_vit_base=None),
    }
    for name, module in stands_in.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(Path(os.environ["UNILM"]) / "beit2"))
    return importlib.import_module


def randomised(model):
    """Parameters large enough that nothing is hidden by rounding."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("quantize."):
                parameter.normal_(0, 0.2)
                if "norm" in name and name.endswith("weight"):
                    parameter.add_(1)
    return model


def ours_of(model, folder):
    file = folder / "theirs.pth"
    torch.save({"model": model.state_dict()}, file)
    return from_pretrained(str(file), heads=2)


def descend(model, loss):
    """A step of plain gradient descent, whose new parameters show every gradient."""
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= RATE * parameter.grad


def assert_equal(found, expected, tolerance):
    found, expected = flatten(found), flatten(expected)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=tolerance, rtol=tolerance, err_msg=name)


def channels_first(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


@dataclasses.dataclass(frozen=True)
class GivenFeatures:
    """A teacher that says of the images of a step what it is told."""

    width: int = TARGET

    def features(self, params, pixels):
        return params


@pytest.mark.parametrize("depth", [1, 2])
def test_vqkd_learns_what_the_released_code_learns(released, tmp_path, depth):
    fields = SIZES | dict(num_classes=0, init_values=0.0, use_abs_pos_emb=True, use_mean_pooling=True, init_scale=0.001)
    fields |= dict(norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6))
    decoder = fields | dict(img_size=SIDE // PATCH, patch_size=1, in_chans=8, depth=depth)
    theirs = randomised(
        released("modeling_vqkd").VQKD(
            fields | dict(depth=2, in_chans=3),
            decoder,
            n_embed=CODES,
            embed_dim=8,
            decay=0.9,
            teacher_model_type="None",
            decoder_out_dim=TARGET,
        )
    )
    with torch.no_grad():
        theirs.quantize.embedding.weight.copy_(torch.nn.functional.normalize(torch.randn(CODES, 8), dim=1))
        theirs.quantize.embedding.initted.fill_(True)
    _, params, config = ours_of(theirs, tmp_path)
    teacher = GivenFeatures()
    settings = tiny("vqkd").loss.copy_and_resolve_references()
    settings.update(dict(decay=0.9, commitment=1.0))
    tokenizer = tasks.create_tokenizer(config.model, SIDE, settings=settings, teacher=teacher)

    @jax.jit
    def step(params, features, images):
        learned, others = split(params, tokenizer.without_gradient)

        def loss(learned):
            metrics, new = tokenizer.loss(join(learned, others), features, images, jax.random.key(0), jnp.int32(1))
            return metrics["loss"][0] / metrics["loss"][1], new

        (value, new), gradients = jax.value_and_grad(loss, has_aux=True)(learned)
        return value, join(jax.tree.map(lambda p, g: p - RATE * g, learned, gradients), new)

    for pixels in PIXELS:
        features = RANDOM.normal(size=(IMAGES, (SIDE // PATCH) ** 2, TARGET)).astype(np.float32)
        images = channels_first(pixels)
        theirs.eval()
        with torch.no_grad():
            tokens = theirs.quantize.embedding.weight.clone(), theirs.get_codebook_indices(images)
        np.testing.assert_array_equal(tokenizer.targets(params, pixels).reshape(IMAGES, -1), tokens[1])
        theirs.train()
        theirs.get_regress_target = lambda x, features=features: torch.from_numpy(features)
        expected, _ = theirs(images)
        descend(theirs, expected)
        found, params = step(params, features, pixels)
        assert float(found) == pytest.approx(expected.item(), rel=1e-5)
        learned = {name: tree for name, tree in ours_of(theirs, tmp_path).params.items() if name != "codebook"}
        assert_equal({name: params[name] for name in learned}, learned, 2e-5)
        np.testing.assert_allclose(params["codebook"]["vectors"], theirs.quantize.embedding.weight.detach(), atol=1e-6)


@pytest.mark.parametrize("shared_head", [True, False])
def test_v2_learns_what_the_released_code_learns(released, tmp_path, shared_head):
    theirs = randomised(
        released("modeling_pretrain").VisionTransformerForMaskedImageModelingCLS(
            **SIZES,
            depth=3,
            vocab_size=CODES,
            init_values=0.1,
            norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
            use_abs_pos_emb=False,
            use_shared_rel_pos_bias=True,
            early_layers=2,
            head_layers=2,
            shared_lm_head=shared_head,
        )
    )
    _, params, config = ours_of(theirs, tmp_path)
    config.model.early_layer, config.model.drop_path, config.num_masked = 2, 0.0, 7
    made = tasks.create_task(config)
    mask = np.zeros((IMAGES, 16), bool)
    for row in mask:
        row[RANDOM.permutation(16)[:7]] = True
    tokens = RANDOM.integers(0, CODES, (IMAGES, 4, 4)).astype(np.int32)

    @jax.jit
    def step(params, images):
        batch = {"image": images, "mask": mask.reshape(IMAGES, 4, 4), "tokens": tokens}

        def loss(params):
            metrics, _ = made.loss(params, {}, batch, jax.random.key(0), jnp.int32(0))
            return metrics["loss"][0] / metrics["loss"][1]

        value, gradients = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - RATE * g, params, gradients)

    true = torch.from_numpy(tokens.reshape(IMAGES, 16)[mask].astype(np.int64))
    for pixels in PIXELS:
        logits = theirs(channels_first(2 * pixels - 1), torch.from_numpy(mask))
        expected = sum(torch.nn.functional.cross_entropy(each, true) for each in logits)
        descend(theirs, expected)
        found, params = step(params, 2 * pixels - 1)
        assert float(found) == pytest.approx(expected.item(), rel=1e-5)
        assert_equal(params, ours_of(theirs, tmp_path).params, 5e-5)
