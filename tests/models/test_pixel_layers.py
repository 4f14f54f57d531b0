import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from beit_jax.models import pixel_layers, setr_pup, upernet, vit
from beit_jax.runtime.run_once import run_once
from beit_jax.training import sharding


def test_normalised_over_the_batch():
    x = 3 + 2 * np.random.default_rng(0).standard_normal((4, 5, 5, 2)).astype(np.float32)
    norm = pixel_layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, False)
    y, sown = norm.apply(variables, x, True, mutable="updates")
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(sown["updates"]["mean"][0], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(sown["updates"]["var"][0], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-4)


def on_eight(x, mesh):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))


def test_statistics_of_eight_devices_are_those_of_the_whole_batch():
    """Each device's rows lie around a mean of their own, so that statistics of one device would be far off."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 4, 4, 3)).astype(np.float32) + 10 * np.arange(8, dtype=np.float32)[:, None, None, None]
    norm = pixel_layers.BatchNorm()
    mesh = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
    with jax.set_mesh(mesh):
        variables = norm.init(jax.random.key(0), x, False)
        run = jax.jit(lambda x: norm.apply(variables, x, True, mutable="updates"))
        y, sown = run(on_eight(x, mesh))
        assert y.sharding.shard_shape(y.shape)[0] == 1
    axes = (0, 1, 2)
    np.testing.assert_allclose(y, (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5), atol=1e-4)
    np.testing.assert_allclose(sown["updates"]["mean"][0], 0.1 * x.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(sown["updates"]["var"][0], 0.9 + 0.1 * x.var(axes, ddof=1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["upernet", "setr_pup"])
def test_heads_on_eight_devices_equal_one(head):
    """Logits, new running statistics and gradients of the parameters in training."""
    encoder = vit.Encoder(16, 2, 2, 4, relative_position="per_block", final_norm=False)
    if head == "upernet":
        model = upernet.UperNet(encoder, 3, channels=8, layers=(0, 0, 1, 1), auxiliary_channels=4, dropout=0.0)
    else:
        model = setr_pup.SetrPup(encoder, 3, channels=8, auxiliary_layers=(0, 1))
    rng = np.random.default_rng(0)
    contrast = np.arange(1, 9, dtype=np.float32)[:, None, None, None]
    images = contrast * rng.standard_normal((8, 16, 16, 3)).astype(np.float32)
    params = run_once(model.init, jax.random.key(0), images[:1])["params"]

    def loss(params, images):
        (logits, auxiliary), sown = model.apply({"params": params}, images, train=True, mutable="updates")
        total = sum(jnp.mean(jnp.sin(3 * x)) for x in (logits, *auxiliary))
        return total, (logits, auxiliary, sown)

    run = jax.value_and_grad(loss, has_aux=True)
    alone = jax.jit(run)(params, images)
    mesh = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
    with jax.set_mesh(mesh):
        together = jax.jit(run)(jax.tree.map(np.asarray, params), on_eight(images, mesh))
    pairs = zip(jax.tree_util.tree_leaves_with_path(alone), jax.tree.leaves(together), strict=True)
    for (path, one), eight in pairs:
        np.testing.assert_allclose(eight, one, atol=1e-4, rtol=1e-4, err_msg=jax.tree_util.keystr(path))


def test_dropout_leaves_out_whole_channels():
    class Head(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return pixel_layers.pixel_logits(x, 4, 0.5, train)

    x = np.random.default_rng(0).uniform(1, 2, (2, 3, 3, 4)).astype(np.float32)
    params = {"classifier": {"kernel": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)}}
    y = np.asarray(Head().apply({"params": params}, x, True, rngs={"dropout": jax.random.key(0)}))
    kept = y[:, :1, :1] != 0
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(y, np.where(kept, 2 * x, 0), rtol=1e-6)
    np.testing.assert_array_equal(Head().apply({"params": params}, x, False), x)
