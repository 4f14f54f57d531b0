"""Counted operations beside known figures, and beside the products that stand in a traced step."""

import math

import jax
import jax.numpy as jnp
import pytest
import tiny
from batches import random_batch

from beit_jax import config as configs
from beit_jax import tasks


def training_flops(config):
    return tasks.create_task(config).training_flops()


@pytest.mark.parametrize(
    ("variant", "masked", "gigaflops"),
    [("B/16", 75, 107.98), ("B/16", 196, 112.55), ("L/16", 75, 372.79), ("L/16", 196, 378.88)],
)
def test_pretraining_as_worked_out_by_hand(variant, masked, gigaflops):
    config = configs.defaults("pretrain")
    config.model.variant, config.num_masked = variant, masked
    assert training_flops(config) / 1e9 == pytest.approx(gigaflops + 52.12, abs=0.01)
    config.tokens = "given"
    assert training_flops(config) / 1e9 == pytest.approx(gigaflops, abs=0.005)


@pytest.mark.parametrize(("variant", "early", "gigaflops"), [("B/16", 9, 128.26), ("L/16", 21, 407.3)])
def test_pretraining_of_beit_v2_as_worked_out_by_hand(variant, early, gigaflops):
    config = configs.defaults("pretrain")
    config.model.update(dict(variant=variant, early_layer=early))
    config.tokens = "given"
    assert training_flops(config) / 1e9 == pytest.approx(gigaflops, abs=0.05 if early == 21 else 0.005)


def test_tokenizer_as_worked_out_by_hand():
    tokenizer = tasks.create_task(configs.defaults("pretrain")).tokenizer
    assert tokenizer.image_size == 112 and tokenizer.target_flops() / 1e9 == pytest.approx(52.12, abs=0.005)


def test_vqkd_as_worked_out_by_hand():
    """168.6 GFLOP of a step with the teacher CLIP B/16, of which 35.47 are the encoder's forward pass."""
    config = configs.defaults("tokenizer", "vqkd")
    config.model.image_size = 224
    tokenizer = tasks.create_task(config).tokenizer
    assert tokenizer.target_flops() / 1e9 == pytest.approx(35.47, abs=0.01)
    assert training_flops(config) / 1e9 == pytest.approx(168.6, abs=0.1)


def products(jaxpr):
    """FLOPs of the products in a jaxpr, those in loops as often as these run."""
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name in ("dot_general", "conv_general_dilated"):
            left, right = (variable.aval.shape for variable in equation.invars)
            (out,) = (variable.aval.shape for variable in equation.outvars)
            if not left or not right or min(len(left), len(right)) == 1:
                continue  # a sum, written as a product with ones
            if name == "dot_general":
                contracted = math.prod(left[axis] for axis in params["dimension_numbers"][0][0])
            else:
                contracted = math.prod(right) // right[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(out) * contracted
        inner = [
            getattr(value, "jaxpr", value)
            for given in params.values()
            for value in (given if isinstance(given, tuple) else (given,))
            if hasattr(getattr(value, "jaxpr", value), "eqns")
        ]
        # Of two branches the cheaper one: k-means makes a codebook in the first step alone.
        runs = min if name == "cond" else sum
        total += params.get("length", 1) * runs(map(products, inner)) if inner else 0
    return total


def traced_flops(config):
    if "remat" in config.model:
        config.model.remat = "none"  # what is recomputed does not count
    task, size = tasks.create_task(config), 2
    key, batch = jax.random.key(0), random_batch(task, size)
    params = jax.eval_shape(task.init, key)
    frozen = {name: jax.eval_shape(part.init, key) for name, part in task.frozen_parts.items()}

    def loss(params, frozen, batch):
        metrics, updates = task.loss(params, frozen, batch, key, jnp.int32(0))
        return metrics["loss"][0], (metrics, updates)

    step = jax.value_and_grad(loss, has_aux=True)
    return products(jax.make_jaxpr(step)(params, frozen, batch).jaxpr) / size


@pytest.mark.parametrize(
    "task", ["tokenizer", "vqkd", "pretrain", "beit v2", "pretrain_pixels", "pretrain_features", "classify", "probe"]
)
def test_the_traced_step_has_as_many(task):
    early_layer = int(task == "beit v2")
    task = "pretrain" if early_layer else task
    config = tiny.config(task)
    if early_layer:
        config.model.early_layer = early_layer
    if task == "probe":
        config.layers = (1,)
    if "variant" in config.model:
        config.model.variant = "48x3x4/4"
    if task == "pretrain":
        config.num_masked = 16  # all: the tokenizer's last layer, left out where nothing is masked, counts in full
    assert training_flops(config) == traced_flops(config)


def test_a_loss_on_all_tokens():
    config = tiny.config("pretrain")
    config.model.variant = "48x3x4/4"
    config.update(dict(loss_on="all", num_masked=16))
    assert training_flops(config) == traced_flops(config)


def test_segmentation_is_not_counted():
    assert training_flops(tiny.config("segment")) is None


def test_features_that_are_computed_once_cost_nothing():
    config = tiny.config("probe")
    config.cache_features = True
    assert training_flops(config) == traced_flops(config)
