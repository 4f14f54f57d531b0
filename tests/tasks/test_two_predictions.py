"""Both predictions of BEiT v2, their losses and gradients against a computation by hand, block by block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch
from beit_references import random_parameters
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.config import validate
from beit_jax.errors import UserError
from beit_jax.models import block
from beit_jax.runtime.run_once import run_once
from beit_jax.training.params import flatten

DEPTH, EARLY, HEADS, PATCH, RATE = 3, 2, 2, 4, 0.3
RATES = [0.0, 0.15, 0.3]  # of the encoder: linspace(0, RATE, DEPTH)
BRANCH_RATES = [0.2, 0.3]  # the last two of linspace(0, RATE, max(DEPTH, EARLY + 2))


def config(**fields):
    made = tiny("pretrain")
    made.model.update(dict(variant=f"16x{DEPTH}x{HEADS}/{PATCH}", early_layer=EARLY, drop_path=0.0))
    made.model.update(dict(dtype="float32", remat="none", unroll=1) | fields)
    return made


@pytest.fixture(scope="module")
def task():
    return tasks.create_task(config())


@pytest.fixture(scope="module")
def params(task):
    shapes = jax.eval_shape(tasks.create_task(config(shared_head=False)).init, jax.random.key(0))
    return random_parameters(shapes)


@pytest.fixture(scope="module")
def frozen(task):
    return {"tokenizer": run_once(task.tokenizer.init, jax.random.key(1))}


@pytest.fixture(scope="module")
def batch(task):
    batch = {name: jnp.asarray(rows) for name, rows in random_batch(task, 4).items()}
    return batch | {"mask": jnp.asarray(np.random.default_rng(5).random((4, 4, 4)) < 0.4)}


@pytest.fixture(scope="module")
def tokens(task, frozen, batch):
    found = jax.jit(task.tokenizer.targets)(frozen["tokenizer"], batch["tokenizer_image"])
    return found.reshape(len(found), -1)


def norm(x, params):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * params["scale"][None, None] + params["bias"][None, None]


def linear(x, params):
    return x @ params["kernel"] + params["bias"][None, None]


def bias_by_hand(table, side):
    """`[h, n+1, n+1]`: the row of each pair of patches, and the last three rows for the class token."""
    n = side * side
    rows = np.zeros((n + 1, n + 1), int)
    for q in range(n):
        for k in range(n):
            dy, dx = q // side - k // side + side - 1, q % side - k % side + side - 1
            rows[q + 1, k + 1] = dy * (2 * side - 1) + dx
    rows[0, 1:], rows[1:, 0], rows[0, 0] = len(table) - 3, len(table) - 2, len(table) - 1
    return jnp.transpose(table[rows], (2, 0, 1))


def block_by_hand(x, params, bias, kept):
    """A block, whose branches count `kept` times."""
    attention, b, n, d = params["attn"], *x.shape
    c = d // HEADS
    qkv = (norm(x, params["norm1"]) @ attention["qkv"]["kernel"]).reshape(b, n, HEADS, 3, c).transpose(3, 0, 2, 1, 4)
    query, value = qkv[0] + attention["q_bias"][None, :, None], qkv[2] + attention["v_bias"][None, :, None]
    weights = jax.nn.softmax(query @ jnp.swapaxes(qkv[1], 2, 3) / np.float32(np.sqrt(c)) + bias[None])
    mixed = (weights @ value).transpose(0, 2, 1, 3).reshape(b, n, d)
    x = x + kept * params["gamma_1"][None, None] * linear(mixed, attention["proj"])
    hidden = linear(norm(x, params["norm2"]), params["mlp"]["fc1"])
    hidden = 0.5 * hidden * (1 + jax.scipy.special.erf(hidden / np.float32(np.sqrt(2))))
    return x + kept * params["gamma_2"][None, None] * linear(hidden, params["mlp"]["fc2"])


def logits_by_hand(params, batch, shared_head, rates, branch_rates):
    """Both logits `[b, n, v]`; the branches of a block are multiplied by its rate."""
    encoder, images, (b, side, _) = params["encoder"], batch["image"], batch["mask"].shape
    patches = images.reshape(b, side, PATCH, side, PATCH, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, side * side, -1)
    embed = encoder["patch_embed"]
    x = patches @ embed["kernel"].reshape(-1, embed["kernel"].shape[-1]) + embed["bias"][None, None]
    x = jnp.where(batch["mask"].reshape(b, -1, 1), encoder["mask_token"], x)
    x = jnp.concatenate([jnp.tile(encoder["cls_token"], (b, 1, 1)), x], axis=1)
    bias, early = bias_by_hand(encoder["relative_position"]["table"], side), None
    for index in range(DEPTH):
        of_block = jax.tree.map(lambda leaf, index=index: leaf[index], encoder["blocks"])
        x = block_by_hand(x, of_block, bias, np.float32(rates[index]))
        early = x if index + 1 == EARLY else early
    branch = jnp.concatenate([x[:, :1], early[:, 1:]], axis=1)
    for index in range(2):
        of_block = jax.tree.map(lambda leaf, index=index: leaf[index], params["aggregation_blocks"])
        branch = block_by_hand(branch, of_block, bias, np.float32(branch_rates[index]))
    own = "" if shared_head else "aggregation_"
    own_norm = encoder["norm"] if shared_head else params["aggregation_norm"]
    main = linear(norm(x, encoder["norm"]), params["lm_head"])
    return main[:, 1:], linear(norm(branch, own_norm), params[f"{own}lm_head"])[:, 1:]


@functools.partial(jax.jit, static_argnames=("shared_head", "rates", "branch_rates"))
def metrics_by_hand(params, tokens, batch, shared_head=True, rates=(1,) * DEPTH, branch_rates=(1, 1)):
    """The loss summed over masked patches, and other metrics."""
    masked = batch["mask"].reshape(tokens.shape)
    found = {}
    logits = logits_by_hand(params, batch, shared_head, rates, branch_rates)
    for name, each in zip(("main", "branch"), logits, strict=True):
        true = jnp.take_along_axis(jax.nn.log_softmax(each), tokens[..., None], axis=-1)[..., 0]
        found[f"{name}_loss"] = -jnp.sum(jnp.where(masked, true, 0.0))
        found[f"{name}_acc"] = jnp.sum((each.argmax(-1) == tokens) & masked, dtype=jnp.float32)
    return found["main_loss"] + found["branch_loss"], found


def gradients_of(task, params, frozen, batch, key=0):
    def loss(params):
        metrics, _ = task.loss(params, frozen, batch, jax.random.key(key), jnp.int32(0))
        return metrics["loss"][0], metrics

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


def assert_same(found, expected):
    (loss, _), gradients = found
    (expected_loss, _), expected_gradients = expected
    np.testing.assert_allclose(loss, expected_loss, rtol=2e-5)
    for name, value in flatten(expected_gradients).items():
        np.testing.assert_allclose(flatten(gradients)[name], value, rtol=1e-3, atol=3e-4, err_msg=name)


def test_losses_accuracies_and_gradients_as_by_hand(task, params, frozen, batch, tokens):
    found = gradients_of(task, params, frozen, batch)
    by_hand = jax.value_and_grad(metrics_by_hand, has_aux=True)(params, tokens, batch)
    assert_same(found, by_hand)
    metrics, expected = found[0][1], by_hand[0][1]
    masked = float(batch["mask"].sum())
    assert all(float(metrics[name][1]) == masked for name in ("loss", "mlm_acc", "main_loss", "branch_loss"))
    for name, theirs in {"main_loss": "main_loss", "branch_loss": "branch_loss", "mlm_acc": "main_acc"}.items():
        np.testing.assert_allclose(metrics[name][0], expected[theirs], rtol=1e-5)
    assert metrics["branch_acc"][0] == expected["branch_acc"]
    # The two predictions are not the same, and all parameters that they depend on are learned.
    assert abs(expected["main_loss"] - expected["branch_loss"]) > 0.1
    unlearned = [name for name, gradient in flatten(found[1]).items() if not np.any(gradient)]
    assert unlearned == [name for name in flatten(params) if name.startswith(("aggregation_lm", "aggregation_norm"))]


def test_an_evaluation_with_two_heads_as_by_hand(params, frozen, batch, tokens):
    task = tasks.create_task(config(shared_head=False))
    sums = jax.jit(task.measure)(params, frozen, batch | {"valid": jnp.array([True, True, True, False])})
    few = batch | {"mask": batch["mask"].at[3].set(False)}
    total, expected = metrics_by_hand(params, tokens, few, shared_head=False)
    found = task.summarize(jax.device_get(sums))
    expected = {name: float(value) / float(few["mask"].sum()) for name, value in (expected | {"loss": total}).items()}
    for name in ("loss", "main_loss", "branch_loss", "branch_acc"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    np.testing.assert_allclose(found["mlm_acc"], expected["main_acc"], rtol=1e-5)
    assert found.keys() <= task.report.metrics.keys()


@pytest.fixture(scope="module")
def dropping(params, frozen, batch):
    return gradients_of(tasks.create_task(config(drop_path=RATE)), params, frozen, batch)


@pytest.mark.parametrize(
    "fields",
    [
        {"unroll": DEPTH, "remat": "full"},
        *(
            pytest.param(fields, marks=pytest.mark.slow)
            for fields in ({"unroll": DEPTH}, {"unroll": 2}, {"remat": "dots_with_no_batch_dims_saveable"})
        ),
    ],
    ids=str,
)
def test_scan_and_remat_change_no_number(fields, params, frozen, batch, dropping):
    """Nor which blocks are dropped."""
    task = tasks.create_task(config(drop_path=RATE, **fields))
    assert_same(gradients_of(task, params, frozen, batch), dropping)


def test_rates_of_stochastic_depth(monkeypatch, params, frozen, batch, tokens):
    """Each branch is multiplied by its rate, so that the loss depends on every rate."""
    monkeypatch.setattr(block, "drop_path", lambda key, y, rate: y * rate)
    task = tasks.create_task(config(drop_path=RATE))
    metrics, _ = jax.jit(task.loss)(params, frozen, batch, jax.random.key(0), jnp.int32(0))
    expected, _ = metrics_by_hand(params, tokens, batch, rates=tuple(RATES), branch_rates=tuple(BRANCH_RATES))
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-5)


def test_an_early_layer_is_before_the_last():
    message = "model.early_layer=3; expected a block before the last of the 3 blocks of 16x3x2/4, such as 1, or 0"
    with pytest.raises(UserError, match=message):
        validate(config(early_layer=3))
    validate(config(early_layer=2))
