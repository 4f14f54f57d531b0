"""The additional blocks of BEiT v2: numbers of parameters and initial values, as measured on the official model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beit_references import random_parameters

from beit_jax.models import variants, vit
from beit_jax.models.patch_aggregation import PatchAggregationModel
from beit_jax.runtime.run_once import run_once


def model(variant, early_layer, vocab=8192, shared_head=True, **fields):
    size, patch = variants.parse(variant)
    settings = dict(mask_token=True, relative_position="shared") | fields
    encoder = vit.Encoder(size.width, size.depth, size.heads, patch, **settings)
    return PatchAggregationModel(encoder, vocab, early_layer, shared_head=shared_head)


@pytest.mark.parametrize(
    ("made", "expected", "additional"),
    [
        (model("B/16", 9), 106_143_056, 14_177_280),
        (model("B/16", 9, shared_head=False), 112_444_240, 14_177_280 + 2 * 768 + 769 * 8192),
        (model("L/16", 21), 336_728_512, 25_194_496),
    ],
    ids=["base", "base, two heads", "large"],
)
def test_parameter_counts(made, expected, additional):
    params = jax.eval_shape(made.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)), None)["params"]
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    assert sum(counts.values()) == expected
    assert sum(count for name, count in counts.items() if name.startswith("aggregation_")) == additional


def test_initial_values_are_those_of_the_official_model():
    """The additional blocks have PyTorch's default, the others are BEiT's; blocks 10 and 11 follow early layer 9."""
    made = model("768x1x12/16", 9, vocab=8)
    params = run_once(made.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), None)["params"]
    blocks = params["aggregation_blocks"]
    attention, mlp = blocks["attn"], blocks["mlp"]

    def deviations(layer):
        return [float(jnp.std(values)) for values in layer["kernel"]]

    np.testing.assert_allclose(deviations(attention["qkv"]), [0.0208, 0.0208], rtol=5e-3)
    np.testing.assert_allclose(deviations(mlp["fc1"]), [0.0208, 0.0208], rtol=5e-3)
    np.testing.assert_allclose(deviations(attention["proj"]), [0.00466, 0.00444], rtol=5e-3)
    np.testing.assert_allclose(deviations(mlp["fc2"]), [0.00233, 0.00222], rtol=5e-3)
    for layer, largest in ((attention["proj"], 0.0361), (mlp["fc1"], 0.0361), (mlp["fc2"], 0.0180)):
        # Uniform: the deviation is 1 / sqrt(3) of the largest value.
        np.testing.assert_allclose(np.abs(layer["bias"]).max(), largest, rtol=1e-2)
        np.testing.assert_allclose(jnp.std(layer["bias"], axis=1), largest / np.sqrt(3), rtol=5e-2)
    biases = [attention["proj"]["bias"], mlp["fc1"]["bias"][:, :768], mlp["fc2"]["bias"]]
    correlations = np.corrcoef(np.concatenate(biases))[~np.eye(6, dtype=bool)]
    assert np.abs(correlations).max() < 0.2  # each is drawn by itself
    assert not attention["q_bias"].any() and not attention["v_bias"].any()
    assert (blocks["gamma_1"] == np.float32(0.1)).all() and (blocks["norm1"]["scale"] == 1).all()
    np.testing.assert_allclose(jnp.std(params["encoder"]["blocks"]["attn"]["qkv"]["kernel"]), 0.01079, rtol=5e-3)
    assert not params["encoder"]["blocks"]["mlp"]["fc1"]["bias"].any()


@pytest.mark.parametrize("remat", ["none", "full"])
def test_no_state_is_stored_but_the_early_one(remat):
    """The gradient that goes through block 4 too needs less than 3 of 16 states more than that of the last block."""
    fields = dict(width=8, depth=16, heads=1, patch_size=4, mask_token=True, layer_scale=0.0, remat=remat)
    encoder, images = vit.Encoder(**fields), jnp.zeros((64, 16, 16, 3))
    params = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"]

    def bytes_of_gradient(keep):
        def scalar(params, images):
            made = encoder.apply({"params": params}, images, keep=keep)
            return sum(jnp.sum(state**3) for state in (made[:2] if keep else [made]))

        compiled = jax.jit(jax.grad(scalar)).lower(params, images).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    state = 64 * 17 * 8 * 4
    assert bytes_of_gradient(4) - bytes_of_gradient(0) < 3.5 * state


@pytest.mark.parametrize("relative_position", ["none", "per_block"])
def test_other_positions(relative_position):
    made = model("16x3x2/4", 1, vocab=5, relative_position=relative_position)
    images = jax.random.normal(jax.random.key(0), (2, 12, 8, 3))
    params = random_parameters(jax.eval_shape(made.init, jax.random.key(0), images, None)["params"])
    assert ("relative_position" in params["aggregation_blocks"]["attn"]) == (relative_position == "per_block")
    main, branch = made.apply({"params": params}, images, None, method="scored")
    assert main.shape == branch.shape == (2, 6, 5) and np.abs(main - branch).max() > 0.01
    np.testing.assert_array_equal(made.apply({"params": params}, images, None), main)
