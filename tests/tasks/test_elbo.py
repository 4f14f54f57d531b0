"""The bound's terms against NumPy, and against the exact likelihood where all tokens can be counted through."""

import itertools
import json

import jax
import numpy as np
import pytest
from beit_references import random_parameters
from tiny import config as tiny

from beit_jax import config as configs
from beit_jax import evaluate, tasks
from beit_jax.errors import UserError
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks import elbo
from beit_jax.training import checkpoint

VOCAB, IMAGES = 3, 4
MASKED = [1, 3]  # of 2x2 patches
SEQUENCES = np.array(list(itertools.product(range(VOCAB), repeat=4)), np.int32)


def small():
    """A pre-training with 2x2 patches and 3 tokens: 81 sequences in all."""
    config = tiny("pretrain")
    config.model.update(dict(image_size=8, drop_path=0.0))
    config.tokenizer.vocab = VOCAB
    config.num_masked = 3  # one more than there are
    return config


def log_density(x, outputs):
    """Of the logit-Laplace distribution, in float64, summed over an image."""
    x, outputs = x.astype(np.float64), np.asarray(outputs, np.float64)
    mu, b = outputs[..., :3], np.exp(outputs[..., 3:])
    logit = np.log(x / (1 - x))
    return (-np.abs(logit - mu) / b - np.log(2 * b * x * (1 - x))).sum(axis=(1, 2, 3))


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def log_sum(values):
    return np.log(np.exp(values - values.max()).sum()) + values.max()


@pytest.fixture(scope="module")
def case():
    """One batch, what `measure` says of it, and everything that a definition needs."""
    config = small()
    pretraining = tasks.create_task(config)
    task = elbo.elbo_task(pretraining)
    params = random_parameters(jax.eval_shape(task.init, jax.random.key(0)))
    frozen = random_parameters(jax.eval_shape(task.frozen_parts["tokenizer"].init, jax.random.key(0)))
    frozen["encoder"]["output"]["bias"] = np.array([0.1, 0.0, 0.2], np.float32)
    frozen["encoder"]["output"]["kernel"] = frozen["encoder"]["output"]["kernel"] * 0.2  # nothing is certain
    rng = np.random.default_rng(1)
    batch = {
        "image": rng.standard_normal((IMAGES, 8, 8, 3)).astype(np.float32),
        "tokenizer_image": rng.uniform(0.1, 0.9, (IMAGES, 4, 4, 3)).astype(np.float32),
        "mask": np.tile(np.isin(np.arange(4), MASKED).reshape(1, 2, 2), (IMAGES, 1, 1)),
        "index": np.arange(IMAGES, dtype=np.int32) + 5,
        "valid": np.ones(IMAGES, bool),
    }
    net, model = pretraining.tokenizer.model, pretraining.model

    @jax.jit
    def apply(params, frozen, batch):
        outputs = net.apply({"params": frozen}, SEQUENCES.reshape(-1, 2, 2), method=net.decode_tokens)
        logits = net.apply({"params": frozen}, batch["tokenizer_image"], method=net.encode)
        return logits, outputs, model.apply({"params": params}, batch["image"], batch["mask"])

    logits, outputs, predicted = apply(params, frozen, batch)
    views = batch["tokenizer_image"]
    densities = np.stack([log_density(view[None], outputs) for view in views])  # [b, 81], log p(x | z) of every z
    measure = jax.jit(task.measure)

    def measured(**changes):
        return jax.device_get(measure(params, {"tokenizer": frozen}, batch | changes))

    q = log_softmax(np.asarray(logits).reshape(IMAGES, 4, VOCAB))
    return measured, batch, q, log_softmax(predicted), densities


def index(tokens):
    return int(np.ravel_multi_index(tuple(tokens), (VOCAB,) * 4))


def test_terms_are_their_definitions(case):
    measured, _, q, prior, densities = case
    found = elbo.summarize(measured())
    kl = (np.exp(q) * (q + np.log(VOCAB))).sum(axis=(1, 2))
    most_likely = q.argmax(axis=-1)
    at_most_likely = np.array([densities[i, index(most_likely[i])] for i in range(IMAGES)])
    masked = np.array([sum(prior[i, m, most_likely[i, m]] for m in MASKED) for i in range(IMAGES)])
    expected = {
        "kl_to_uniform": kl.mean(),
        "reconstruction_argmax": at_most_likely.mean(),
        "masked_log_likelihood": masked.mean(),
        "masked_log_likelihood_uniform": -2 * np.log(3),
        "bound_stage2": (at_most_likely + masked).mean(),
        "masked_per_image": 2,
        "overflow": 0,
        "images": IMAGES,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    assert found["bound_stage1"] == pytest.approx(found["reconstruction"] - kl.mean(), rel=1e-5)


def test_draws_are_those_of_the_tokenizer(case):
    """Of one image at 400 indices: each value is that of one of the 81 sequences, and their mean that under q."""
    measured, batch, q, _, densities = case
    values = []
    for start in range(0, 400, IMAGES):
        indices = np.arange(start, start + IMAGES, dtype=np.int32)
        views = np.repeat(batch["tokenizer_image"][:1], IMAGES, axis=0)
        for row in range(IMAGES):
            only = np.arange(IMAGES) == row
            values.append(measured(index=indices, tokenizer_image=views, valid=only)["reconstruction"][0])
    values, weights = np.array(values), np.exp(q[0][np.arange(4), SEQUENCES].sum(axis=-1))
    assert np.abs(values[:, None] - densities[0][None]).min(axis=1).max() < 1e-2
    mean = (weights * densities[0]).sum()
    error = np.sqrt((weights * (densities[0] - mean) ** 2).sum() / len(values))
    assert error > 0.01 and abs(values.mean() - mean) < 4 * error


def test_both_bounds_are_below_the_exact_likelihood(case):
    measured, _, q, prior, densities = case
    for i in range(IMAGES):
        found = elbo.summarize(measured(valid=np.arange(IMAGES) == i))
        weights = np.exp(q[i][np.arange(4), SEQUENCES].sum(axis=-1))
        exact = log_sum(densities[i] - 4 * np.log(VOCAB))  # log p(x), all sequences alike
        expected_bound = (weights * densities[i]).sum() - found["kl_to_uniform"]
        assert expected_bound < exact
        tokens = q[i].argmax(axis=-1)
        visible = [m for m in range(4) if m not in MASKED]
        given = (SEQUENCES[:, visible] == tokens[visible]).all(axis=1)
        prior_of = prior[i][MASKED][np.arange(2), SEQUENCES[:, MASKED]].sum(axis=-1)
        exact = log_sum((densities[i] + prior_of)[given])  # log p(x | what is visible)
        assert given.sum() == VOCAB**2
        assert found["bound_stage2"] < exact


def test_rows_that_are_not_valid_and_other_tasks(case):
    measured, *_ = case
    some = elbo.summarize(measured(valid=np.array([True, False, True, False])))
    each = [elbo.summarize(measured(valid=np.arange(IMAGES) == i)) for i in (0, 2)]
    assert some["images"] == 2
    for name in ("bound_stage1", "bound_stage2", "masked_log_likelihood"):
        assert some[name] == pytest.approx(np.mean([one[name] for one in each]), rel=1e-5)
    with pytest.raises(UserError, match="the task 'classify', expected a tokenizer or a model pre-trained on tokens"):
        elbo.elbo_task(tasks.create_task(tiny("classify")))
    config = tiny("pretrain")
    config.loss_on = "all"
    with pytest.raises(UserError, match="loss_on='all'; expected a model of the tokens of masked patches"):
        elbo.elbo_task(tasks.create_task(config))


@pytest.mark.slow
def test_the_command(tmp_path, capsys, in_the_checkout):
    """On digits: the same reconstruction and KL as the tokenizer's own evaluation, with the sign of the bound."""
    config = configs.load("configs/tokenizer.py:runlocal")
    config.data.source, config.batch_size = "digits", 64
    params = run_once(tasks.create_task(config).init, jax.random.key(0))
    checkpoint.save_params(tmp_path / "run", params, configs.to_json(config))
    numbers = []
    for flags in ([], ["--bound"]):
        evaluate.main([f"--checkpoint={tmp_path}/run", *flags])
        numbers.append(json.loads(capsys.readouterr().out))
    usual, terms = numbers
    assert terms["reconstruction_argmax"] == pytest.approx(-usual["nll"], rel=1e-5)
    assert terms["kl_to_uniform"] == pytest.approx(usual["kl"], rel=1e-5)
    assert terms["images"] == 359 and "masked_log_likelihood" not in terms
