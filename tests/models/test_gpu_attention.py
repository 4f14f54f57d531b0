"""Attention through `jax.nn.dot_product_attention`, on a CPU without cuDNN, beside the plain computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from beit_jax.models import gpu_attention
from beit_jax.models.attention import attention_weights
from beit_jax.models.gpu_attention import cudnn_attention
from beit_jax.models.xla_workarounds import copy_per_shard
from beit_jax.training import sharding


def plain(x, kernel, query, value, bias):
    q, k, v = rearrange(x @ kernel, "b n (h i c) -> i b n h c", h=len(query), i=3)
    weights = attention_weights(q + query[None, None], k, bias)
    return rearrange(jnp.einsum("bhqk,bkhc->bqhc", weights, v + value[None, None]), "b n h c -> b n (h c)")


def ours(x, kernel, query, value, bias):
    mixed = cudnn_attention(x, kernel, (query, value), bias, "xla")
    assert mixed.shape[1] % gpu_attention.MULTIPLE == 0
    return mixed[:, : x.shape[1]]


def inputs(batch, tokens, heads, size):
    rng, width = np.random.default_rng(0), heads * size
    shapes = (batch, tokens, width), (width, 3 * width), (heads, size), (heads, size), (1, heads, tokens, tokens)
    scales = (1, width**-0.5, 1, 1, 1)
    values = [jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for scale, shape in zip(scales, shapes)]
    return values, jnp.asarray(rng.normal(size=(batch, tokens, width)), jnp.float32)


@pytest.mark.parametrize("tokens", [5, 8, 17])
def test_values_and_gradients(tokens):
    values, gradient = inputs(3, tokens, 2, 8)
    expected, pull_expected = jax.vjp(plain, *values)
    found, pull = jax.vjp(ours, *values)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for got, wanted in zip(pull(gradient), pull_expected(gradient), strict=True):
        np.testing.assert_allclose(got, wanted, atol=5e-5)


@pytest.mark.parametrize("sizes", [dict(data=4, fsdp=2, tensor=1), dict(data=2, fsdp=1, tensor=4)])
def test_examples_and_heads_are_split_over_a_mesh(sizes):
    values, gradient = inputs(8, 5, 4, 8)

    def run(attend):
        def loss(*values):
            return jnp.sum(attend(*values) * gradient)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4)))(*values)

    expected = run(plain)
    with jax.set_mesh(sharding.make_mesh(sizes)):
        found = run(lambda x, *rest: ours(x, *rest[:-1], copy_per_shard(rest[-1][0], len(x))))
    jax.tree.map(lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4), found, expected)


def test_the_trial_passes_what_is_right_and_tells_what_is_wrong(monkeypatch):
    cpu = jax.devices()[0]
    assert not gpu_attention.has_cudnn(cpu)
    assert gpu_attention.fault(17, 3, 8, cpu, "xla", jnp.float32) == ""
    assert "cuDNN" in gpu_attention.fault(17, 3, 8, cpu, "cudnn")
    monkeypatch.setattr(gpu_attention, "TOLERANCE", 0.0)
    assert "differ by" in gpu_attention.fault(9, 3, 8, cpu, "xla", jnp.float32)


def test_the_trial_while_jax_traces_within_a_mesh():
    found = []

    def traced(x):
        found.append(gpu_attention.fault(7, 2, 8, jax.devices()[0], "xla", jnp.float32))
        return x

    with jax.set_mesh(sharding.make_mesh(dict(data=4, fsdp=2, tensor=1))):
        jax.eval_shape(traced, 1.0)
    assert found == [""]


def test_a_gradient_that_is_not_a_number_fails_the_trial(monkeypatch):
    @jax.custom_vjp
    def spoiled(bias):
        return bias

    spoiled.defvjp(lambda bias: (bias, None), lambda _, gradient: (gradient * jnp.nan,))
    right = cudnn_attention

    def wrong(x, kernel, added, bias, implementation):
        return right(x, kernel, added, spoiled(bias) if implementation == "spoiled" else bias, "xla")

    monkeypatch.setattr(gpu_attention, "cudnn_attention", wrong)
    assert "nan" in gpu_attention.fault(6, 2, 8, jax.devices()[0], "spoiled", jnp.float32)
