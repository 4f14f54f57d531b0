import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beit_references import random_parameters

from beit_jax.models import classifier, heads, variants, vit

# Parameters of each variant: pre-training with a shared table; the same with absolute positions in place of table and
# LayerScale; the first without its head; fine-tuning at 224, 384 and 512 pixels with 1000 classes, at 224 with 21841.
# Ti to L were measured on the official code; Micro and Nano, which it lacks, added up from the formula of a block's
# parameters, which gives the measured numbers too.
COUNTS = {
    "Micro": (322_008, 326_720, 51_672, 86_104, 92_024, 99_064, 773_857),
    "Nano": (785_072, 794_240, 252_592, 326_312, 349_992, 378_152, 1_680_977),
    "Ti": (7_072_340, 7_103_360, 5_491_284, 5_708_248, 5_761_528, 5_824_888, 9_730_561),
    "S": (24_753_320, 24_815_360, 21_599_400, 22_032_328, 22_138_888, 22_265_608, 30_056_113),
    "B": (91_965_776, 92_089_856, 85_666_128, 86_530_984, 86_744_104, 86_997_544, 102_557_713),
    "L": (311_534_016, 311_674_880, 303_137_216, 304_430_568, 304_998_888, 305_674_728, 325_792_593),
}


def count(model, size):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)), *[None] * takes_mask(model))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def takes_mask(model):
    return not isinstance(model, classifier.ImageClassifier)


def pretraining(name, **fields):
    variant, patch = variants.parse(f"{name}/16")
    return vit.Encoder(variant.width, variant.depth, variant.heads, patch, mask_token=True, **fields)


def finetuning(name, classes):
    variant, patch = variants.parse(f"{name}/16")
    fields = dict(relative_position="per_block", final_norm=False, init_scheme="finetune")
    encoder = vit.Encoder(variant.width, variant.depth, variant.heads, patch, **fields)
    return classifier.ImageClassifier(encoder, classes)


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_parameter_counts(name):
    shared = pretraining(name, relative_position="shared")
    absolute = pretraining(name, absolute_positions=True, layer_scale=0.0)
    assert COUNTS[name] == (
        count(heads.MaskedImageModel(shared, vocab=8192), 224),
        count(heads.MaskedImageModel(absolute, vocab=8192), 224),
        count(shared, 224),
        *(count(finetuning(name, 1000), size) for size in (224, 384, 512)),
        count(finetuning(name, 21841), 224),
    )


@pytest.fixture(scope="module")
def model():
    encoder = vit.Encoder(16, 2, 2, 4, mask_token=True, relative_position="shared", drop_path=0.1)
    return heads.MaskedImageModel(encoder, vocab=11)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (2, 12, 8, 3))


@pytest.fixture(scope="module")
def params(model, images):
    return random_parameters(jax.eval_shape(model.init, jax.random.key(0), images, None)["params"])


def test_gathered_logits_are_those_of_all_patches(model, images, params):
    mask = jax.random.bernoulli(jax.random.key(1), 0.5, (2, 3, 2))
    positions = jnp.array([[5, 0, 2, 2], [1, 3, 4, 0]], jnp.int32)
    everywhere = model.apply({"params": params}, images, mask)
    assert everywhere.shape == (2, 6, 11) and everywhere.dtype == jnp.float32
    gathered = model.apply({"params": params}, images, mask, positions)
    np.testing.assert_allclose(gathered, np.take_along_axis(everywhere, positions[..., None], axis=1), atol=1e-6)


def test_position_counts_patches_row_by_row(model, images, params):
    """Masking a patch changes most of all, here alone, the logits at its own position if attention is cut."""
    blocks = jax.tree.map(lambda leaf: leaf, params["encoder"]["blocks"])
    blocks["attn"]["proj"]["kernel"] = np.zeros_like(blocks["attn"]["proj"]["kernel"])
    params = {**params, "encoder": {**params["encoder"], "blocks": blocks}}
    mask = jnp.zeros((2, 3, 2), bool).at[:, 2, 1].set(True).at[0, 1, 0].set(True)
    change = model.apply({"params": params}, images, mask) - model.apply({"params": params}, images, None)
    changed = np.abs(change).max(axis=-1) > 1e-6
    np.testing.assert_array_equal(changed, mask.reshape(2, 6))


def test_bfloat16_logits_are_float32_and_differentiable(images, params):
    encoder = vit.Encoder(16, 2, 2, 4, mask_token=True, relative_position="shared", dtype=jnp.bfloat16)
    model = heads.MaskedImageModel(encoder, vocab=11)

    def scalar(params):
        logits = model.apply({"params": params}, images, None)
        assert logits.dtype == jnp.float32
        return jnp.sum(logits**2)

    gradients = jax.jit(jax.grad(scalar))(params)
    assert all(leaf.dtype == jnp.float32 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling(pooling, images):
    encoder = vit.Encoder(16, 2, 2, 4, init_scheme="finetune", final_norm=pooling == "cls")
    model = classifier.ImageClassifier(encoder, num_classes=5, pooling=pooling)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert ("fc_norm" in shapes) == (pooling == "mean") and ("norm" in shapes["encoder"]) == (pooling == "cls")
    params = random_parameters(shapes)
    tokens = np.asarray(encoder.apply({"params": params["encoder"]}, images))
    pooled = tokens[:, 0]
    if pooling == "mean":
        mean = tokens[:, 1:].mean(axis=1)
        pooled = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(mean.var(-1, keepdims=True) + 1e-6)
        pooled = pooled * params["fc_norm"]["scale"] + params["fc_norm"]["bias"]
    expected = pooled @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(model.apply({"params": params}, images), expected, atol=1e-5)


def test_training_starts_near_uniform_predictions(images):
    encoder = vit.Encoder(16, 2, 2, 4, init_scheme="finetune", final_norm=False)
    model = classifier.ImageClassifier(encoder, num_classes=5)
    logits, _ = jax.jit(model.init_with_output)(jax.random.key(0), images)
    assert logits.shape == (2, 5) and np.abs(logits).max() < 1e-3


def test_pooling_and_final_norm_must_agree(images):
    model = classifier.ImageClassifier(vit.Encoder(16, 2, 2, 4), num_classes=5, pooling="mean")
    with pytest.raises(ValueError, match="final_norm"):
        model.init(jax.random.key(0), images)
