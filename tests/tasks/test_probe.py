"""The linear probe: what its features are, that its layers are independent, and what it reports."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.config.probe import chosen_layers
from beit_jax.errors import UserError
from beit_jax.models import vit
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks.encoder import layer_features
from beit_jax.training.params import flatten, merge


@pytest.fixture(scope="module")
def encoder():
    net = vit.Encoder(width=8, depth=3, heads=2, patch_size=4, relative_position="shared", final_norm=False)
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    return net, net.init(jax.random.key(1), images)["params"], images


def test_features_are_tokens_after_each_block(encoder):
    net, params, images = encoder
    every = np.asarray(net.apply({"params": params}, images, all_layers=True))  # [l, b, n+1, d]
    cls, mean = every[:, :, 0].swapaxes(0, 1), every[:, :, 1:].mean(axis=2).swapaxes(0, 1)
    for kind, expected in (("cls", cls), ("mean", mean), ("cls_mean", np.concatenate([cls, mean], axis=-1))):
        np.testing.assert_allclose(layer_features(net, params, images, kind), expected, atol=1e-6)
    # The last block's output is the encoder's own, since there is no final norm.
    np.testing.assert_allclose(cls[:, -1], net.apply({"params": params}, images)[:, 0], atol=1e-6)


def made(**changes):
    config = tiny("probe")
    config.update(changes)
    return tasks.create_task(config), config


def prepared(task):
    params = run_once(task.init, jax.random.key(0))
    frozen = {"encoder": run_once(task.frozen_parts["encoder"].init, jax.random.key(1))}
    batch = {name: jnp.asarray(rows) for name, rows in random_batch(task, 8).items()}
    return params, frozen, batch


def test_each_layer_learns_as_it_would_alone():
    (both, _), (second, _) = made(), made(layers=(2,))
    params, frozen, batch = prepared(both)

    def gradient(task, params):
        return jax.grad(lambda params: task.loss(params, frozen, batch, jax.random.key(0), 0)[0]["loss"][0])(params)

    alone = jax.tree.map(lambda leaf: leaf[1:], params)
    found = jax.tree.map(lambda leaf: leaf[1:], gradient(both, params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, gradient(second, alone))


def test_features_in_place_of_images_give_the_same():
    (live, _), (cached, _) = made(), made(cache_features=True)
    params, frozen, batch = prepared(live)
    rows = {"features": live.embed(params, frozen, batch["image"]), "label": batch["label"]}
    assert {name: (spec.shape, spec.dtype) for name, spec in cached.train_spec(8).items()} == {
        name: (values.shape, values.dtype) for name, values in rows.items()
    }
    for name, parts in live.loss(params, frozen, batch, jax.random.key(0), 0)[0].items():
        np.testing.assert_allclose(parts, cached.loss(params, {}, rows, jax.random.key(0), 0)[0][name], rtol=1e-5)
    valid = {"valid": jnp.arange(8) < 5}
    of_images = live.summarize(jax.device_get(live.measure(params, frozen, batch | valid)))
    assert of_images == pytest.approx(cached.summarize(jax.device_get(cached.measure(params, {}, rows | valid))))
    assert of_images["images"] == 5


def test_the_best_layer_is_named():
    sums = {
        "loss": np.array([30.0, 10.0, 20.0]),
        "top1": np.array([2.0, 7.0, 5.0]),
        "top5": np.array([5.0, 9.0, 10.0]),
        "images": np.float64(10),
        "labelled": np.array([6.0, 4.0]),
    }
    best = dict(loss=1.0, top1=0.7, top5=0.9, best_layer=9.0, majority=0.6, images=10.0)
    each = dict(top1_layer03=0.2, top1_layer09=0.7, top1_layer12=0.5)
    config = tiny("probe")
    config.model.variant, config.layers = "B/4", (3, 9, 12)
    assert tasks.create_task(config).summarize(sums) == best | each


def test_layers_that_are_not_there():
    assert chosen_layers((), 3) == (1, 2, 3)
    for missing in (0, 4, "last"):
        with pytest.raises(UserError, match=rf"there is no layer {missing!r}: the encoder has the layers 1 to 3"):
            chosen_layers((2, missing), 3)
    with pytest.raises(UserError, match=r"layers=\(1, 1\) names a layer twice"):
        chosen_layers((1, 1), 3)


@pytest.mark.parametrize("task", ["probe", "classify"])
def test_the_encoder_of_a_vqkd_is_taken(task):
    """Its other parts are left out, if the config says of what kind its positions are."""
    config = tiny(task)
    config.model.update(dict(absolute_positions=True, relative_position="none", layer_scale=0.0))
    made = tasks.create_task(config)
    part = made.frozen_parts["encoder"] if task == "probe" else None
    wanted = jax.eval_shape(part.init if part else made.init, jax.random.key(0))
    vqkd = jax.eval_shape(tasks.create_task(tiny("vqkd")).init, jax.random.key(0))
    ignored = part.ignored if part else made.ignored_parameters
    merged = flatten(merge(wanted, vqkd, optional=("^head/", "^fc_norm/"), ignored=ignored))
    blocks = [name for name in merged if name.startswith("encoder/blocks/")]
    assert blocks and all(merged[name] is flatten(vqkd)[name] for name in (*blocks, "encoder/pos_embed"))
