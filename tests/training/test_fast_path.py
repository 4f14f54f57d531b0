"""The training step's shortcuts change no loss: 20 steps beside a step without any of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax import tasks
from beit_jax.benchmarks import program, synthetic
from beit_jax.models import attention, block, patch_embed
from beit_jax.runtime.run_once import run_once
from beit_jax.training import optimizer, train_step

STEPS, BATCH = 20, 8


@pytest.fixture(scope="module")
def setting():
    """A small pre-training, its task, different batches with their tokens, and the optimizer."""
    config = program.complete_without_data(configs.load("configs/pretrain.py:runlocal"), "", dtype="float32")
    config.batch_size, config.model.drop_path = BATCH, 0.0
    task = tasks.create_task(config)
    params, encode = run_once(task.tokenizer.init, jax.random.key(2)), jax.jit(task.tokenizer.targets)
    batches = [synthetic.synthetic_batch(ConfigDict({**config, "seed": seed}), task) for seed in range(STEPS)]
    tokens = [np.asarray(encode(params, batch["tokenizer_image"])) for batch in batches]
    return config, task, batches, tokens, optimizer.build_optimizer(config.optimizer, STEPS, 5)[0]


def losses(task, batches, tx):
    """Losses of the step that runs use, from the same start."""
    frozen = {name: run_once(part.init, jax.random.key(2)) for name, part in task.frozen_parts.items()}
    state = jax.jit(lambda key: train_step.new_state(task, tx, key, ema=False))(jax.random.key(1))
    step = jax.jit(train_step.make_step(task, tx, 1, 0.0, False), donate_argnums=0)
    found = []
    for batch in batches:
        state, metrics = step(state, frozen, batch, jax.random.key(3))
        total, count = metrics["loss"]
        found.append(float(total / count))
    return found


@pytest.fixture(scope="module")
def plain(setting):
    """The loss written out: logits of all patches, no work-around for XLA, nothing recomputed."""
    config, _, batches, tokens, tx = setting
    config = ConfigDict(config)
    config.model.remat = "none"
    task = tasks.create_task(config)

    def loss(params, batch, tokens):
        logits = task.model.apply({"params": params}, batch["image"], batch["mask"], None)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, tokens.reshape(BATCH, -1))
        mask = batch["mask"].reshape(BATCH, -1)
        return jnp.sum(jnp.where(mask, nll, 0.0)) / jnp.sum(mask, dtype=jnp.float32)

    @jax.jit
    def step(params, moments, batch, tokens):
        value, gradients = jax.value_and_grad(loss)(params, batch, tokens)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
            updates, moments = tx.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, value

    def convolution(x, kernel):
        stride = kernel.shape[:2]
        return jax.lax.conv_general_dilated(x, kernel, stride, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    params = run_once(task.init, jax.random.key(1))
    moments, found = jax.jit(tx.init)(params), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "add_bias", jnp.add)
        patch.setattr(block, "gelu", lambda x: nn.gelu(x, approximate=False))
        patch.setattr(patch_embed, "convolution_without_overlap", convolution)
        for batch, true in zip(batches, tokens, strict=True):
            params, moments, value = step(params, moments, batch, true)
            found.append(float(value))
    assert np.ptp(found) > 1e-2  # the numbers do move
    return found


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        *(
            pytest.param(settings, marks=pytest.mark.slow)
            for settings in ({"remat": "none", "unroll": 2}, {"remat": "full"}, {"remat": "dots_saveable"})
        ),
    ],
    ids=str,
)
def test_losses_of_the_fast_path(setting, plain, overrides):
    config, _, batches, _, tx = setting
    config = ConfigDict(config)
    config.model.update(overrides)
    np.testing.assert_allclose(losses(tasks.create_task(config), batches, tx), plain, atol=1e-5, rtol=0)


def test_losses_with_tokens_given(setting, plain):
    config, _, batches, tokens, tx = setting
    given = [
        {"image": batch["image"], "mask": batch["mask"], "tokens": true}
        for batch, true in zip(batches, tokens, strict=True)
    ]
    found = losses(synthetic.pretrain_on_given_tokens(config), given, tx)
    np.testing.assert_allclose(found, plain, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_losses_in_bfloat16(setting, plain):
    """Within what bfloat16 products of eight bits may do to a loss of three and a half nats."""
    config, _, batches, _, tx = setting
    config = ConfigDict(config)
    config.model.dtype = "bfloat16"
    found = losses(tasks.create_task(config), batches, tx)
    np.testing.assert_allclose(found, plain, atol=2e-2, rtol=0)
    assert np.abs(np.subtract(found, plain)).max() > 1e-5
