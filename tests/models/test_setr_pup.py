import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beit_jax.errors import UserError
from beit_jax.models import setr_pup, variants, vit
from beit_jax.models.pixel_layers import ConvNorm, resize
from beit_jax.runtime.run_once import run_once


def network(name="Micro/4", **fields):
    variant, patch = variants.parse(name)
    encoder = vit.Encoder(
        variant.width, variant.depth, variant.heads, patch, relative_position="per_block", final_norm=False
    )
    return setr_pup.SetrPup(encoder, **fields)


def test_parameters_of_base(capsys):
    """Learned ones of BEiT base at 512 pixels with ADE20K's 150 classes, layer by layer."""
    d, hidden, side, c, k = 768, 4 * 768, 512 // 16, 150, 256
    table = ((2 * side - 1) ** 2 + 3) * 12
    attention = (d * 3 * d + 2 * d) + (d * d + d) + table  # queries and values have a bias, keys have none
    block = attention + (d * hidden + hidden) + (hidden * d + d) + 2 * 2 * d + 2 * d  # two norms, two LayerScales
    encoder = (16 * 16 * 3 * d + d) + d + 12 * block
    first, further, classifier = 9 * d * k + 2 * k, 9 * k * k + 2 * k, k * c + c
    decode = 2 * d + first + 3 * further + classifier
    auxiliary = 2 * d + first + classifier
    running = 2 * k * (4 + 4)
    shapes = jax.eval_shape(network("B/16", num_classes=c).init, jax.random.key(0), jnp.zeros((1, 512, 512, 3)))
    leaves = jax.tree_util.tree_leaves_with_path(shapes["params"])
    sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in leaves}
    found_running = sum(size for name, size in sizes.items() if "'mean'" in name or "'var'" in name)
    with capsys.disabled():
        print(f"\nSETR-PUP base: {sum(sizes.values()) - found_running:,} learned parameters")
    assert found_running == running
    assert sum(sizes.values()) - running == encoder + decode + 4 * auxiliary == 97_048_366


@pytest.fixture(scope="module")
def small():
    model = network("32x3x2/8", num_classes=3, channels=8, auxiliary_layers=(0, 2), dropout=0.5)
    images = np.random.default_rng(0).standard_normal((2, 16, 32, 3)).astype(np.float32)
    return model, run_once(model.init, jax.random.key(0), images)["params"], images


def test_resolutions(small):
    model, params, images = small
    logits, auxiliary = jax.jit(lambda p: model.apply({"params": p}, images))(params)
    assert logits.shape == (2, 8, 16, 3) and logits.dtype == jnp.float32
    assert [x.shape for x in auxiliary] == [(2, 8, 16, 3)] * 2
    assert "conv_2" in params["decode_head"] and "conv_3" not in params["decode_head"]


def test_logits_are_those_of_the_classifier_behind_the_last_upsampling(small):
    """The paper's order: convolution, doubling, ..., doubling, classifier, at the image's resolution."""
    model, params, images = small
    outputs = model.encoder.apply({"params": params["encoder"]}, images, all_layers=True)
    head = jax.tree.map(np.asarray, params["decode_head"])
    x = np.asarray(outputs[2][:, 1:], np.float64).reshape(2, 2, 4, 32)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = jnp.asarray(x * head["norm"]["scale"] + head["norm"]["bias"], jnp.float32)
    for i in range(3):
        x = ConvNorm(8, 3).apply({"params": head[f"conv_{i}"]}, x, False)
        x = resize(x, (2 * x.shape[1], 2 * x.shape[2]))
    expected = np.asarray(x) @ head["classifier"]["kernel"] + head["classifier"]["bias"]
    logits = resize(model.apply({"params": params}, images)[0], (16, 32))
    assert expected.std() > 1e-3
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_each_auxiliary_head_sees_its_block(small):
    model, params, images = small
    changed = jax.tree.map(lambda leaf: leaf, params)
    changed["encoder"]["blocks"] = jax.tree.map(lambda leaf: leaf.at[1].multiply(1.5), params["encoder"]["blocks"])
    run = jax.jit(lambda p: model.apply({"params": p}, images)[1])
    (first, last), (first_changed, last_changed) = run(params), run(changed)
    np.testing.assert_array_equal(first, first_changed)
    assert np.abs(last - last_changed).max() > 1e-6


def test_dropout_in_training_only(small):
    model, params, images = small

    def run(key, model=model):
        return model.apply({"params": params}, images, train=True, mutable="updates", rngs={"dropout": key})[0][0]

    assert np.abs(run(jax.random.key(0)) - run(jax.random.key(1))).max() > 1e-3
    plain = model.clone(dropout=0.0)
    np.testing.assert_array_equal(run(jax.random.key(0), plain), run(jax.random.key(1), plain))


def test_other_patch_sizes_are_reported():
    with pytest.raises(UserError, match="patch size 6 under SETR-PUP, expected a power of two"):
        network("Micro/6", num_classes=3).init(jax.random.key(0), jnp.zeros((1, 12, 12, 3)))
