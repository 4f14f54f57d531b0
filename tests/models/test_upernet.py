import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beit_jax.models import upernet, variants, vit
from beit_jax.runtime.run_once import run_once


def network(name="Micro/4", **fields):
    variant, patch = variants.parse(name)
    encoder = vit.Encoder(
        variant.width, variant.depth, variant.heads, patch, relative_position="per_block", final_norm=False
    )
    return upernet.UperNet(encoder, **fields)


def test_parameters_of_the_published_size():
    """162,614,252 learned ones, counted in transformers, and the running statistics of its batch norms."""
    model = network("B/16", num_classes=150)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"]
    sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    running = sum(size for name, size in sizes.items() if "'mean'" in name or "'var'" in name)
    assert running == 2 * (768 * 13 + 256)
    assert sum(sizes.values()) - running == 162_614_252


def test_pooling_windows_cover_the_map():
    x = np.random.default_rng(0).standard_normal((2, 7, 5, 3)).astype(np.float32)
    pooled = upernet.average_pool(x, 3)
    for i, rows in enumerate([slice(0, 3), slice(2, 5), slice(4, 7)]):
        for j, columns in enumerate([slice(0, 2), slice(1, 4), slice(3, 5)]):
            np.testing.assert_allclose(pooled[:, i, j], x[:, rows, columns].mean((1, 2)), atol=1e-6)


@pytest.fixture(scope="module")
def small():
    model = network(num_classes=3, channels=8, layers=(0, 0, 1, 1), auxiliary_channels=4)
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    return model, run_once(model.init, jax.random.key(0), images)["params"], images


@pytest.mark.slow
def test_batch_norm_in_training(small):
    model, params, images = small
    rngs = {"dropout": jax.random.key(0)}
    run = jax.jit(lambda params: model.apply({"params": params}, images, train=True, mutable="updates", rngs=rngs))
    (logits, (auxiliary,)), sown = run(params)
    assert logits.shape == (2, 16, 16, 3) and auxiliary.shape == (2, 4, 4, 3)
    updates = sown["updates"]["auxiliary_head"]["conv_0"]["norm"]
    assert updates["mean"][0].shape == (4,) and np.all(updates["var"][0] > 0.9 - 1e-6)


@pytest.mark.slow
def test_running_statistics_have_no_gradient(small):
    model, params, images = small
    gradients = jax.jit(jax.grad(lambda params: model.apply({"params": params}, images)[0].sum()))(params)
    norm = gradients["decode_head"]["fusion"]["norm"]
    assert not np.any(norm["mean"]) and not np.any(norm["var"]) and np.any(norm["scale"])
