import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax import tasks
from beit_jax.errors import UserError
from beit_jax.training import optimizer
from beit_jax.training.params import choose, flatten, split

# Layers 0..13 of the base model, printed by the official code.
SCALES = {
    0.65: "0.003697 0.005688 0.008751 0.013463 0.020712 0.031864 0.049022 "
    "0.075419 0.116029 0.178506 0.274625 0.4225 0.65 1",
    0.85: "0.120905 0.142242 0.167343 0.196874 0.231617 0.272491 0.320577 "
    "0.377150 0.443705 0.522006 0.614125 0.7225 0.85 1",
}


def abstract_params(name, **model):
    config = configs.defaults(name)
    config.model.update(model)
    return jax.eval_shape(tasks.create_task(config).init, jax.random.key(0))


def section(**changes):
    settings = dict(
        schedule="cosine",
        lr=1.0,
        min_lr=1.0,
        weight_decay=0.05,
        layer_decay=1.0,
        clip_norm=0.0,
    )
    return ConfigDict(settings | dict(betas=(0.9, 0.999)) | changes)


@pytest.mark.parametrize("decay", SCALES)
def test_layer_scales_of_the_base_model(decay):
    expected = np.array(SCALES[decay].split(), float)
    scales = flatten(optimizer.layer_scales(abstract_params("classify", num_classes=1000), decay))
    for name in ("encoder/cls_token", "encoder/patch_embed/kernel", "encoder/patch_embed/bias"):
        np.testing.assert_allclose(scales[name], expected[0], atol=1e-6)
    for name in ("attn/qkv/kernel", "attn/relative_position/table", "gamma_1", "mlp/fc2/bias", "norm1/scale"):
        np.testing.assert_allclose(scales[f"encoder/blocks/{name}"].ravel(), expected[1:13], atol=1e-6)
    for name in ("fc_norm/scale", "head/kernel", "head/bias"):
        assert float(scales[name]) == 1.0


def test_shared_table_counts_with_the_head_as_officially():
    scales = flatten(optimizer.layer_scales(abstract_params("pretrain"), 0.65))
    assert float(scales["encoder/relative_position/table"]) == 1.0
    np.testing.assert_allclose(scales["encoder/mask_token"], 0.003697, atol=1e-6)


@pytest.mark.parametrize("decay", SCALES)
def test_each_tensor_receives_its_rate(decay):
    """The update itself, at a constant gradient: Adam's first step is the learning rate of each element."""
    shapes = abstract_params("classify", variant="8x12x2/16", image_size=32, num_classes=3)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    tx, _ = optimizer.build_optimizer(section(layer_decay=decay, weight_decay=0.0), total_steps=10, warmup_steps=0)
    updates = jax.jit(lambda: tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)[0])()
    expected = np.array(SCALES[decay].split(), float)
    for name, update in flatten(updates).items():
        rate = -np.asarray(update)
        if name.startswith("encoder/blocks/"):
            each = expected[1:13].reshape(12, *[1] * (rate.ndim - 1))
        else:
            each = expected[-1] if name.startswith(("head/", "fc_norm/")) else expected[0]
        np.testing.assert_allclose(rate, np.broadcast_to(each, rate.shape), rtol=1e-4, err_msg=name)


def test_probe_of_the_released_code_decays_biases_and_changes_its_rate_by_epochs():
    """AdamW over all parameters, 4e-3 and 1e-4, and `CosineAnnealingLR` stepped once in each of 100 epochs."""
    config = configs.load("configs/probe.py:setting=code")
    no_decay = tasks.create_task(config).no_decay
    tx, rate = optimizer.build_optimizer(config.optimizer, 500, 0, 0, steps_per_epoch=5, no_decay=no_decay)
    epochs = [4e-3 * (1 + np.cos(np.pi * epoch / 100)) / 2 for epoch in range(100)]
    np.testing.assert_allclose([rate(step) for step in range(500)], np.repeat(epochs, 5), rtol=1e-4, atol=1e-9)
    params = {"heads": {"kernel": jnp.ones((1, 2, 3)), "bias": jnp.full((1, 3), 2.0)}}
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["heads"]["kernel"], -4e-3 * 1e-4 * 1.0, rtol=1e-5)
    np.testing.assert_allclose(updates["heads"]["bias"], -4e-3 * 1e-4 * 2.0, rtol=1e-5)


def test_what_is_decayed():
    names = [*flatten(abstract_params("pretrain", absolute_positions=True)), *flatten(abstract_params("classify"))]
    rules = optimizer.decay_rules(tasks.create_task(configs.defaults("pretrain")).no_decay)
    decayed = {name for name in names if choose(rules, name)}
    assert decayed == {
        "encoder/mask_token",
        "encoder/relative_position/table",
        "encoder/patch_embed/kernel",
        *(f"encoder/blocks/{name}/kernel" for name in ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")),
        "encoder/blocks/attn/relative_position/table",
        "lm_head/kernel",
        "head/kernel",
    }


def test_segmentation_decays_class_token_and_positions_too():
    """The released code compares "cls_token" and "pos_embed" with names that begin with "backbone."."""
    task = tasks.create_task(configs.defaults("segment"))
    params = abstract_params("segment", num_classes=4, absolute_positions=True, channels=8)
    names = flatten(split(params, task.without_gradient)[0])
    decayed = {name for name in names if choose(optimizer.decay_rules(task.no_decay), name)}
    assert decayed == {
        name for name in names if name.endswith(("/kernel", "/table", "encoder/cls_token", "encoder/pos_embed"))
    }
    assert {"encoder/cls_token", "encoder/pos_embed", "pyramid/up_1/kernel"} < decayed
    tx, _ = optimizer.build_optimizer(section(lr=0.1, min_lr=0.1), 10, 0, no_decay=task.no_decay)
    params = {"encoder": {"cls_token": jnp.full((1, 1, 4), 3.0)}}
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["encoder"]["cls_token"], -3.0 * 0.1 * 0.05, rtol=1e-6)


def test_decoupled_decay_equals_the_formula():
    params, gradient = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full((2,), 3.0)}, 0.5
    tx, _ = optimizer.build_optimizer(section(lr=0.1, min_lr=0.1, weight_decay=0.05), total_steps=10, warmup_steps=0)
    updates, _ = tx.update(jax.tree.map(lambda p: jnp.full_like(p, gradient), params), tx.init(params), params)
    new = optax.apply_updates(params, updates)
    np.testing.assert_allclose(new["kernel"], 3.0 * (1 - 0.1 * 0.05) - 0.1, rtol=1e-6)
    np.testing.assert_allclose(new["bias"], 3.0 - 0.1, rtol=1e-6)


def test_clipping_is_by_the_global_norm():
    params = {"a": jnp.zeros(3), "b": jnp.zeros(4)}
    tx, _ = optimizer.build_optimizer(section(clip_norm=1.0, betas=(0.0, 0.9)), total_steps=2, warmup_steps=0)
    gradients = {"a": jnp.full(3, 10.0), "b": jnp.full(4, 20.0)}
    _, state = tx.update(gradients, tx.init(params), params)
    clipped = optax.tree.get(state, "mu")  # without memory, the first moment is the gradient that Adam saw
    norm = (3 * 10.0**2 + 4 * 20.0**2) ** 0.5
    np.testing.assert_allclose(clipped["a"], 10.0 / norm, rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], 20.0 / norm, rtol=1e-6)


def test_betas_are_those_of_adam():
    """Two steps by the formulas, with gradients 1 and 3."""
    b1, b2 = 0.6, 0.8
    tx, _ = optimizer.build_optimizer(section(betas=(b1, b2), weight_decay=0.0), total_steps=9, warmup_steps=0)
    params = {"a": jnp.zeros(2)}
    _, state = tx.update({"a": jnp.full(2, 1.0)}, tx.init(params), params)
    update, _ = tx.update({"a": jnp.full(2, 3.0)}, state, params)
    first = ((1 - b1) * b1 * 1.0 + (1 - b1) * 3.0) / (1 - b1**2)
    second = ((1 - b2) * b2 * 1.0 + (1 - b2) * 9.0) / (1 - b2**2)
    np.testing.assert_allclose(update["a"], -first / (second**0.5 + 1e-8), rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("cosine", [1.0, 0.55, 0.1, 0.1]), ("linear, 40 steps", [0.775, 0.325, 0.1, 0.1]), ("linear", None)],
)
def test_the_schedule_may_end_before_the_run(schedule, expected):
    settings = section(schedule=schedule, lr=1.0, min_lr=0.1)
    steps = 0 if expected is None else 40
    _, rate = optimizer.build_optimizer(settings, total_steps=100, warmup_steps=10, decay_steps=steps)
    values = [rate(10), rate(30), rate(50), rate(99)]
    np.testing.assert_allclose(values, expected or [0.91, 0.73, 0.55, 0.109], atol=1e-6)


def test_warm_up_longer_than_the_run():
    with pytest.raises(UserError, match="a warm-up of 10 steps, expected fewer than the 10 steps of the run"):
        optimizer.build_optimizer(section(), total_steps=10, warmup_steps=10)
