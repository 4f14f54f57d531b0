"""Our models against the live reference libraries, on the same random weights and inputs, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beit_references import dall_e_model, hugging_face_model, random_parameters

from beit_jax.models import classifier, dvae, heads, vit

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("torchvision_without_its_binary")
TOLERANCE = 1e-4

SIDE, PATCH, WIDTH, DEPTH, HEADS, CLASSES = 24, 4, 32, 3, 4, 19
GRID = SIDE // PATCH


def hugging_face_config(**fields):
    transformers = pytest.importorskip("transformers")
    return transformers.BeitConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=SIDE,
        patch_size=PATCH,
        layer_norm_eps=1e-6,
        vocab_size=CLASSES,
        num_labels=CLASSES,
        **fields,
    )


def position_fields(relative_position, absolute_positions):
    """The same choice for our encoder and for theirs."""
    ours = dict(relative_position=relative_position, absolute_positions=absolute_positions)
    theirs = dict(
        use_relative_position_bias=relative_position == "per_block",
        use_shared_relative_position_bias=relative_position == "shared",
        use_absolute_position_embeddings=absolute_positions,
    )
    return ours, theirs


def parameters_of(model, *args):
    return random_parameters(jax.eval_shape(model.init, jax.random.key(0), *args)["params"])


def draw(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def channels_first(images):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


def assert_same(ours, theirs, what, capsys):
    difference = float(np.abs(np.asarray(ours) - theirs).max())
    with capsys.disabled():
        print(f"\n{what}: largest difference {difference:.1e}, largest value {np.abs(theirs).max():.2f}")
    assert np.abs(theirs).std() > 0.05
    assert difference <= TOLERANCE


POSITIONS = [("shared", False), ("per_block", False), ("none", True), ("shared", True), ("per_block", True)]


@pytest.mark.parametrize(("relative_position", "absolute_positions"), POSITIONS)
def test_masked_image_model(relative_position, absolute_positions, capsys):
    transformers = pytest.importorskip("transformers")
    ours, theirs = position_fields(relative_position, absolute_positions)
    encoder = vit.Encoder(WIDTH, DEPTH, HEADS, PATCH, mask_token=True, **ours)
    model = heads.MaskedImageModel(encoder, vocab=CLASSES)
    images, mask = draw((2, SIDE, SIDE, 3)), draw((2, GRID, GRID), seed=1) > 0.3
    params = parameters_of(model, images, mask, None)
    reference = hugging_face_model(
        transformers.BeitForMaskedImageModeling, hugging_face_config(use_mask_token=True, **theirs), params
    )
    with torch.no_grad():
        expected = reference(channels_first(images), torch.from_numpy(mask.reshape(2, -1))).logits.numpy()
    logits = jax.jit(model.apply)({"params": params}, images, mask, None)
    assert_same(logits, expected, f"masked image model, {relative_position}, absolute {absolute_positions}", capsys)


@pytest.mark.parametrize(
    ("relative_position", "absolute_positions", "pooling"),
    [("per_block", False, "mean"), ("shared", True, "mean"), ("per_block", True, "cls")],
)
def test_classifier(relative_position, absolute_positions, pooling, capsys):
    transformers = pytest.importorskip("transformers")
    ours, theirs = position_fields(relative_position, absolute_positions)
    encoder = vit.Encoder(WIDTH, DEPTH, HEADS, PATCH, final_norm=pooling == "cls", init_scheme="finetune", **ours)
    model = classifier.ImageClassifier(encoder, num_classes=CLASSES, pooling=pooling)
    images = draw((3, SIDE, SIDE, 3))
    params = parameters_of(model, images)
    config = hugging_face_config(use_mean_pooling=pooling == "mean", **theirs)
    reference = hugging_face_model(transformers.BeitForImageClassification, config, params)
    with torch.no_grad():
        expected = reference(channels_first(images)).logits.numpy()
    logits = jax.jit(model.apply)({"params": params}, images)
    assert_same(logits, expected, f"classifier, {relative_position}, {absolute_positions}, {pooling}", capsys)


@pytest.mark.parametrize(("relative_position", "absolute_positions"), [("shared", False), ("per_block", True)])
def test_attention_maps(relative_position, absolute_positions, capsys):
    """What `visualize attention` shows, of every block."""
    transformers = pytest.importorskip("transformers")
    attention = pytest.importorskip("beit_jax.visualize.attention", reason="needs matplotlib")
    ours, theirs = position_fields(relative_position, absolute_positions)
    encoder = vit.Encoder(WIDTH, DEPTH, HEADS, PATCH, mask_token=True, **ours)
    images = draw((2, SIDE, SIDE, 3))
    params = parameters_of(heads.MaskedImageModel(encoder, vocab=CLASSES), images, None, None)
    config = hugging_face_config(use_mask_token=True, attn_implementation="eager", **theirs)
    reference = hugging_face_model(transformers.BeitForMaskedImageModeling, config, params)
    with torch.no_grad():
        theirs = reference(channels_first(images), output_attentions=True).attentions
    expected = np.stack([layer.numpy() for layer in theirs])
    found = attention.attention_weights(encoder, params["encoder"], images)
    assert found.shape == expected.shape == (DEPTH, 2, HEADS, GRID**2 + 1, GRID**2 + 1)
    assert expected.std() > 0.005
    difference = float(np.abs(found - expected).max())
    with capsys.disabled():
        print(f"\nattention, {relative_position}, absolute {absolute_positions}: largest difference {difference:.1e}")
    assert difference <= 1e-5


def test_dall_e(capsys):
    dall_e = pytest.importorskip("dall_e")
    hidden, vocab = 16, 48
    model = dvae.DiscreteVAE(vocab=vocab, hidden=hidden, decoder_init=12)
    images = 0.1 + 0.8 * np.random.default_rng(0).random((2, 32, 24, 3), dtype=np.float32)
    params = parameters_of(model, images, jax.random.key(0), 1.0)
    encoder = dall_e_model(dall_e.Encoder(n_hid=hidden, vocab_size=vocab), params["encoder"])
    decoder = dall_e_model(dall_e.Decoder(n_hid=hidden, n_init=12, vocab_size=vocab), params["decoder"])
    with torch.no_grad():
        expected = encoder(channels_first(images))
        tokens = expected.argmax(1)
        outputs = decoder(torch.nn.functional.one_hot(tokens, vocab).permute(0, 3, 1, 2).float())

    def ours(method, x):
        return jax.jit(lambda x: model.apply({"params": params}, x, method=method))(x)

    assert_same(ours(model.encode, images), expected.permute(0, 2, 3, 1).numpy(), "dVAE encoder", capsys)
    np.testing.assert_array_equal(ours(model.tokens, images), tokens.numpy())
    decoded = ours(model.decode_tokens, jnp.asarray(tokens.numpy(), jnp.int32))
    assert_same(decoded, outputs.permute(0, 2, 3, 1).numpy(), "dVAE decoder", capsys)
    reference = dall_e.unmap_pixels(torch.sigmoid(outputs[:, :3])).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(dvae.reconstruction(decoded), reference, atol=TOLERANCE)
