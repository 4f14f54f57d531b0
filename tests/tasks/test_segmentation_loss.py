import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beit_jax.tasks.segmentation_loss import cross_entropy


def example(ignored=0.3):
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((2, 4, 5, 6)).astype(np.float32)
    label = rng.integers(0, 6, (2, 8, 15)).astype(np.int32)
    label[rng.random(label.shape) < ignored] = 255
    return logits, label


def enlarged(logits, height, width):
    """Bilinear, align_corners=False: two neighbours in each direction, cut at the border."""

    def taps(size, length):
        at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, length - 1), at - low

    low, high, fraction = taps(height, logits.shape[1])
    rows = logits[:, low] * (1 - fraction)[:, None, None] + logits[:, high] * fraction[:, None, None]
    low, high, fraction = taps(width, logits.shape[2])
    return rows[:, :, low] * (1 - fraction)[:, None] + rows[:, :, high] * fraction[:, None]


def test_against_the_definition():
    logits, label = example()
    total, count = jax.jit(cross_entropy)(logits, label)
    large = enlarged(logits.astype(np.float64), 8, 15)
    log_p = large - np.log(np.exp(large).sum(-1, keepdims=True))
    losses = [-log_p[i][label[i] != 255, label[i][label[i] != 255]].sum() for i in range(2)]
    np.testing.assert_allclose(total, sum(losses), rtol=1e-5)
    assert float(count) == label.size


def test_against_pytorch():
    """mmsegmentation sets ignored pixels to 0 and averages over all."""
    torch = pytest.importorskip("torch")
    logits, label = example()
    x = torch.nn.functional.interpolate(torch.from_numpy(logits).permute(0, 3, 1, 2), size=(8, 15), mode="bilinear")
    losses = torch.nn.functional.cross_entropy(x, torch.from_numpy(label).long(), ignore_index=255, reduction="none")
    total, count = cross_entropy(jnp.asarray(logits), jnp.asarray(label))
    np.testing.assert_allclose(total / count, losses.mean().item(), rtol=1e-5)


def test_ignored_pixels_add_nothing_and_have_no_gradient():
    logits, label = example(ignored=0.0)
    label[:, :, :12] = 255
    gradient = jax.grad(lambda x: cross_entropy(x, jnp.asarray(label))[0])(jnp.asarray(logits))
    assert not np.any(gradient[:, :, :3]) and np.any(gradient[:, :, 4])
    total, count = cross_entropy(jnp.asarray(logits), jnp.full((2, 8, 15), 255, jnp.int32))
    assert (float(total), float(count)) == (0.0, 240.0)
