"""The kernel of attention for TPUs, interpreted on a CPU, beside the plain computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from beit_jax.models import tpu_attention
from beit_jax.models.attention import attention_weights
from beit_jax.models.tpu_attention import fused_attention
from beit_jax.models.xla_workarounds import copy_per_shard
from beit_jax.training import sharding


def plain(projected, added, bias, heads):
    query, key, value = rearrange(projected + added[None, None], "b n (h i c) -> i b n h c", h=heads, i=3)
    mixed = jnp.einsum("bhqk,bkhc->bqhc", attention_weights(query, key, bias), value)
    return rearrange(mixed, "b n h c -> b n (h c)")


def inputs(batch, tokens, heads, size, shards=1):
    rng = np.random.default_rng(0)
    shapes = (batch, tokens, heads * 3 * size), (heads * 3 * size,), (shards, heads, tokens, tokens)
    gradient = rng.normal(size=(batch, tokens, heads * size)).astype(np.float32)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes], jnp.asarray(gradient)


# Heads that fill lanes alone, in pairs, in fours, and not at all; odd numbers of tokens.
@pytest.mark.parametrize(("tokens", "heads", "size"), [(7, 2, 128), (17, 4, 64), (5, 4, 32), (9, 3, 16)])
def test_values_and_gradients(tokens, heads, size):
    values, gradient = inputs(3, tokens, heads, size)
    expected, pull_expected = jax.vjp(lambda *args: plain(*args, heads), *values)
    found, pull = jax.vjp(lambda *args: fused_attention(*args, heads, True), *values)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for ours, theirs in zip(pull(gradient), pull_expected(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_bfloat16_keeps_logits_and_weights_in_float32():
    values, _ = inputs(2, 9, 2, 64)
    rounded = [values[0].astype(jnp.bfloat16), *values[1:]]
    found = fused_attention(*rounded, 2, True)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), plain(*values, 2), atol=0.03)


@pytest.mark.parametrize("sizes", [dict(data=4, fsdp=2, tensor=1), dict(data=2, fsdp=1, tensor=4)])
def test_examples_and_heads_are_split_over_a_mesh(sizes):
    values, gradient = inputs(8, 5, 4, 32)

    def run(attend):
        def loss(projected, added, bias):
            return jnp.sum(attend(projected, added, bias) * gradient)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))

    expected = run(lambda projected, added, bias: plain(projected, added, bias, 4))(*values)
    with jax.set_mesh(sharding.make_mesh(sizes)):
        found = run(lambda x, added, bias: fused_attention(x, added, copy_per_shard(bias[0], len(x)), 4, True))(*values)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4), found, expected)


def test_what_fits_into_fast_memory():
    assert tpu_attention.fits(197, 1024, 16, tpu_attention.FAST_MEMORY)
    assert tpu_attention.fits(577, 768, 12, tpu_attention.FAST_MEMORY)
    assert not tpu_attention.fits(1025, 768, 12, tpu_attention.FAST_MEMORY)
