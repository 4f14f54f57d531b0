"""Fresh layers of segmentation, against the formulas of mmcv's ConvModule and of PyTorch's transposed convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beit_jax.models import setr_pup, upernet, variants, vit
from beit_jax.models.initializers import KAIMING, transposed_uniform
from beit_jax.runtime.run_once import run_once
from beit_jax.training.params import flatten


@pytest.mark.parametrize(
    ("side", "outputs", "expected"),
    [(3, 768, 0.0170), (1, 768, 0.0510), (3, 256, 0.0295), (3, 1024, 0.0147), (1, 1024, 0.0442)],
)
def test_convolutions_of_the_published_width(side, outputs, expected):
    """`kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")`: a normal that is not truncated."""
    kernel = np.asarray(KAIMING(jax.random.key(0), (side, side, 1800 // side**2, outputs)))
    np.testing.assert_allclose(kernel.std(), expected, rtol=5e-3)
    assert np.abs(kernel).max() > 4 * expected


@pytest.mark.parametrize(("width", "expected"), [(768, 0.01042), (1024, 0.00902)])
def test_transposed_convolutions_of_the_published_width(width, expected):
    values = np.asarray(transposed_uniform(width, pixels=4)(jax.random.key(0), (2, 2, 100, width)))
    np.testing.assert_allclose(values.std(), expected, rtol=5e-3)
    bound = (4 * width) ** -0.5
    assert 0.999 * bound < np.abs(values).max() <= bound


def fresh(head):
    """The parameters that segmentation adds, of a tiny encoder and heads 64 wide."""
    variant, patch = variants.parse("48x2x2/8")
    positions = dict(relative_position="per_block", final_norm=False)
    encoder = vit.Encoder(variant.width, variant.depth, variant.heads, patch, **positions)
    shared = dict(encoder=encoder, num_classes=40, channels=64)
    if head == "upernet":
        model = upernet.UperNet(**shared, layers=(0, 0, 1, 1), auxiliary_channels=32)
    else:
        model = setr_pup.SetrPup(**shared, auxiliary_layers=(0, 1))
    params = run_once(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    return {name: np.asarray(leaf) for name, leaf in flatten(params).items() if not name.startswith("encoder/")}


def expected_deviation(name, shape):
    if name.endswith("classifier/kernel"):
        return 0.01
    if "/up_" in name:
        return (4 * 48) ** -0.5 / 3**0.5
    return (2 / (shape[0] * shape[1] * shape[-1])) ** 0.5 if name.endswith("/conv/kernel") else 0.0


@pytest.mark.parametrize("head", ["upernet", "setr_pup"])
def test_every_fresh_layer(head):
    found = fresh(head)
    random = {name for name in found if name.endswith("kernel") or "/up_" in name}
    assert len(random) == {"upernet": 4 + 3 + 1 + 3 + 1 + 1 + 2 + 6, "setr_pup": 3 + 1 + 2 * 2}[head]
    for name, values in found.items():
        if name in random:
            tolerance = 5 / values.size**0.5
            np.testing.assert_allclose(values.std(), expected_deviation(name, values.shape), rtol=tolerance)
            assert abs(values.mean()) < tolerance * values.std()
        else:
            constant = 1.0 if name.endswith(("scale", "var")) else 0.0
            np.testing.assert_array_equal(values, constant)
