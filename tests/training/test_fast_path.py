"""The training step's shortcuts change no loss: 50 steps beside a step without any of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax import tasks
from beit_jax.benchmarks import program, synthetic
from beit_jax.tasks import pretrain
from beit_jax.training import optimizer, train_step

STEPS = 50


@pytest.fixture(scope="module")
def setting():
    """A small pre-training, the task, and batches of which every one is another."""
    config = program.complete(configs.load("configs/pretrain.py:runlocal"), "", dtype="float32")
    config.batch_size, config.model.drop_path = 8, 0.0
    task = tasks.create(config)
    batches = [synthetic.rows(ConfigDict({**config, "seed": seed}), task) for seed in range(STEPS)]
    return config, task, batches, optimizer.build_optimizer(config.optimizer, STEPS, 5)[0]


def losses(config: ConfigDict, task: tasks.Task, batches: list, tx: optax.GradientTransformation) -> list:
    """Losses of the step that runs use, from the same start."""
    frozen = {name: part.init(jax.random.key(2)) for name, part in task.frozen.items()}
    current = train_step.create(task, tx, jax.random.key(1), ema=False)
    step = jax.jit(train_step.make_step(task, tx, 1, 0.0, False), donate_argnums=0)
    found = []
    for batch in batches:
        current, metrics = step(current, frozen, batch, jax.random.key(3))
        total, count = metrics["loss"]
        found.append(float(total / count))
    return found


@pytest.fixture(scope="module")
def plain(setting):
    """The loss written out: tokens and logits of all patches, every derivative left to JAX, nothing computed again."""
    config, task, batches, tx = setting
    config = ConfigDict(config)
    config.model.remat = "none"
    net, tokenizer = pretrain.model(config), pretrain.tokenizer_of(config)
    frozen = {"params": task.frozen["tokenizer"].init(jax.random.key(2))}
    params = task.init(jax.random.key(1))

    def loss(params, batch):
        tokens = tokenizer.apply(frozen, batch["tokenizer_image"], method="tokens").reshape(8, -1)
        logits = net.apply({"params": params}, batch["image"], batch["mask"], None)
        wrong = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
        mask = batch["mask"].reshape(8, -1)
        return jnp.sum(jnp.where(mask, wrong, 0.0)) / jnp.sum(mask, dtype=jnp.float32)

    @jax.jit
    def step(params, moments, batch):
        value, slopes = jax.value_and_grad(loss)(params, batch)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
            updates, moments = tx.update(slopes, moments, params)
        return optax.apply_updates(params, updates), moments, value

    moments, found = tx.init(params), []
    for batch in batches:
        params, moments, value = step(params, moments, batch)
        found.append(float(value))
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
    config, _, batches, tx = setting
    config = ConfigDict(config)
    config.model.update(overrides)
    found = losses(config, tasks.create(config), batches, tx)
    np.testing.assert_allclose(found, plain, atol=1e-5, rtol=0)
    assert np.ptp(plain) > 1e-2  # the numbers do move


def test_losses_with_tokens_given(setting, plain):
    config, task, batches, tx = setting
    frozen = {"tokenizer": task.frozen["tokenizer"].init(jax.random.key(2))}
    encode = jax.jit(
        lambda images: pretrain.tokenizer_of(config).apply({"params": frozen["tokenizer"]}, images, method="tokens")
    )
    given = [{**batch, "tokens": np.asarray(encode(batch["tokenizer_image"]))} for batch in batches]
    for batch in given:
        del batch["tokenizer_image"]
    found = losses(config, synthetic.with_tokens(config), given, tx)
    np.testing.assert_allclose(found, plain, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_losses_in_bfloat16(setting, plain):
    """Within what bfloat16 products of eight bits may do to a loss of three and a half nats."""
    config, _, batches, tx = setting
    config = ConfigDict(config)
    config.model.dtype = "bfloat16"
    found = losses(config, tasks.create(config), batches, tx)
    np.testing.assert_allclose(found, plain, atol=2e-2, rtol=0)
    assert np.abs(np.subtract(found, plain)).max() > 1e-5
