"""Each work-around equals the plain expression that it replaces, and so does its gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.sharding import AxisType

from beit_jax.models import xla_workarounds


def draw(*shape, seed=0, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def assert_same(ours, plain, *args, atol=1e-6):
    """Equal values, and equal gradients of a sum in which every entry has a weight of its own."""

    def scalar(function):
        def weighted(*args):
            out = function(*args)
            weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
            return jnp.sum(out.astype(jnp.float32) * weights), out

        return jax.value_and_grad(weighted, argnums=tuple(range(len(args))), has_aux=True)

    def run(*args):
        return scalar(ours)(*args), scalar(plain)(*args)

    ((_, found), gradients), ((_, expected), expected_gradients) = jax.jit(run)(*args)
    assert found.dtype == expected.dtype
    pairs = zip((found, *gradients), (expected, *expected_gradients), strict=True)
    for got, wanted in pairs:
        assert np.any(wanted)
        np.testing.assert_allclose(got.astype(jnp.float32), wanted.astype(jnp.float32), atol=atol, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "atol"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2e-2)])
def test_gelu(dtype, atol):
    x = 3 * draw(50, dtype=dtype)
    assert_same(xla_workarounds.gelu, lambda x: nn.gelu(x, approximate=False), x, atol=atol)
    kept = jax.tree.leaves(jax.vjp(xla_workarounds.gelu, x)[1])
    assert [leaf.shape for leaf in kept if leaf.ndim] == [x.shape]
    assert len([leaf for leaf in jax.tree.leaves(jax.vjp(nn.gelu, x)[1]) if leaf.ndim]) > 1


def test_gelu_is_closer_than_xla_s_own():
    x = np.linspace(-9, 9, 20001, dtype=np.float32)
    exact = x.astype(np.float64) * scipy.special.ndtr(x.astype(np.float64))
    ours, theirs = (np.abs(f(jnp.asarray(x)) - exact).max() for f in (xla_workarounds.gelu, nn.gelu))
    assert ours < 5e-7 < theirs


@pytest.mark.parametrize("shape", [(3, 7), (2, 3, 5)])
def test_layer_norm(shape):
    x, scale, bias = 1 + 2 * draw(*shape), draw(shape[-1], seed=1), draw(shape[-1], seed=2)

    def plain(x, scale, bias):
        norm = nn.LayerNorm(epsilon=1e-3, use_fast_variance=False)
        return norm.apply({"params": {"scale": scale, "bias": bias}}, x)

    assert_same(lambda *args: xla_workarounds.layer_norm(*args, 1e-3), plain, x, scale, bias, atol=5e-6)
    kept = [
        leaf.size for leaf in jax.tree.leaves(jax.vjp(lambda x: xla_workarounds.layer_norm(x, scale, bias, 0.1), x)[1])
    ]
    assert kept.count(x.size) == 1


@pytest.mark.parametrize(("dtype", "atol"), [(jnp.float32, 1e-6), (jnp.bfloat16, 5e-2)])
def test_float32_product(dtype, atol):
    x, kernel = draw(2, 3, 5, dtype=dtype), draw(5, 4, seed=1, dtype=dtype)

    def plain(x, kernel):
        return jnp.matmul(x.astype(jnp.float32), kernel.astype(jnp.float32))

    assert_same(xla_workarounds.float32_product, plain, x, kernel, atol=atol)


def test_halved():
    assert_same(xla_workarounds.halved, lambda x: nn.max_pool(x, (2, 2), (2, 2)), draw(2, 6, 8, 3))


@pytest.mark.parametrize("shards", [1, 2])
def test_add_bias(shards):
    logits, bias = draw(6, 2, 3, 3), draw(shards, 2, 3, 3, seed=1)
    repeats = 6 // shards
    assert_same(xla_workarounds.add_bias, lambda x, bias: x + jnp.repeat(bias, repeats, axis=0), logits, bias)


def test_one_copy_without_a_mesh():
    table = draw(3, 2)
    np.testing.assert_array_equal(xla_workarounds.copy_per_shard(table, 8), table[None])


def test_a_copy_for_each_shard_of_the_batch():
    """Gradients of the copies are those of the one, and a batch that the mesh does not split needs one copy."""
    table, x = draw(3, 2), draw(8, 3, 2, seed=1)

    def shifted(table, x):
        copies = xla_workarounds.copy_per_shard(table, x.shape[0])
        assert copies.shape == (4, 3, 2)
        return x + jnp.repeat(copies, 2, axis=0)

    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        assert xla_workarounds.copy_per_shard(table, 6).shape == (1, 3, 2)
        assert_same(shifted, lambda table, x: x + table[None], table, x)


@pytest.mark.parametrize("size", [1, 4])
def test_convolution_without_overlap(size):
    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (size, size), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert_same(
        xla_workarounds.convolution_without_overlap, plain, draw(2, 8, 12, 3), draw(size, size, 3, 5, seed=1), atol=1e-4
    )


def test_value_at():
    x, index = draw(4, 3, 7), jax.random.randint(jax.random.key(1), (4, 3), 0, 7)
    assert_same(
        lambda x: xla_workarounds.value_at(x, index),
        lambda x: jnp.take_along_axis(x, index[..., None], axis=-1)[..., 0],
        x,
    )
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(xla_workarounds.value_at(x, jnp.full((4, 3), 255))))(x)
    assert value == 0.0 and not np.any(gradient)
