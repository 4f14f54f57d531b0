"""Checkpoints of the live libraries, read here: the same outputs in float32, and back to the last bit."""

import jax
import numpy as np
import pytest
from PIL import Image

import beit_jax
from beit_jax.convert import files, preprocessing, verify
from beit_jax.convert.__main__ import main as convert
from beit_jax.models.pixel_statistics import STATISTICS
from beit_jax.training import interpolate_positions
from beit_jax.training.params import flatten, unflatten

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("torchvision_without_its_binary")
TOLERANCE = 1e-4


def randomise(model):
    """Random weights, none at its initial value, with outputs of about 1."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        scale = 0.02 if parameter.ndim == 2 and "table" not in name else 0.2
        if parameter.ndim == 4:
            scale = parameter[0].numel() ** -0.5
        ones = 1.0 if ("norm" in name and name.endswith("weight")) or "lambda" in name or "gamma" in name else 0.0
        parameter.data = ones + scale * values
    return model.eval()


def draw(size, count=1):
    return np.random.default_rng(1).standard_normal((count, size, size, 3)).astype(np.float32)


def channels_first(images):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


SIZES = {"Ti": (192, 12, 3), "S": (384, 12, 6), "B": (768, 12, 12)}
FLAGS = {
    "absolute": "use_absolute_position_embeddings",
    "shared": "use_shared_relative_position_bias",
    "per_block": "use_relative_position_bias",
}
CASES = [
    *(("Ti", positions, head, 224) for positions in FLAGS for head in ("masked", "mean", "cls")),
    *(("S", "per_block", head, 384) for head in ("masked", "mean")),
    ("S", "absolute", "cls", 384),
    ("B", "shared", "masked", 224),
    ("B", "per_block", "mean", 384),
]


@pytest.mark.parametrize(("size", "positions", "head", "pixels"), CASES)
def test_transformers(tmp_path, size, positions, head, pixels, capsys):
    transformers = pytest.importorskip("transformers")
    width, depth, heads = SIZES[size]
    config = transformers.BeitConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        image_size=pixels,
        vocab_size=512,
        num_labels=100,
        use_mask_token=head == "masked",
        use_mean_pooling=head != "cls",
        layer_norm_eps=1e-6 if size == "S" else 1e-12,
        **{FLAGS[positions]: True},
    )
    kind = transformers.BeitForMaskedImageModeling if head == "masked" else transformers.BeitForImageClassification
    reference = randomise(kind(config))
    reference.save_pretrained(tmp_path / "theirs")
    model, params, ours = beit_jax.from_pretrained(tmp_path / "theirs")
    assert ours.model.variant == f"{size}/16" and ours.model.norm_eps == config.layer_norm_eps

    images = draw(pixels)
    grid = pixels // 16
    mask = np.random.default_rng(2).random((1, grid, grid)) < 0.4
    extra, theirs = (
        ((mask,), {"bool_masked_pos": torch.from_numpy(mask.reshape(1, -1))}) if head == "masked" else ((), {})
    )
    with torch.no_grad():
        expected = reference(channels_first(images), **theirs).logits.numpy()
    logits = jax.jit(model.apply)({"params": params}, images, *extra)
    difference = np.abs(logits - expected).max()
    with capsys.disabled():
        print(f"\n{size}/16 {pixels} {positions} {head}: largest difference {difference:.1e} of {expected.std():.2f}")
    assert expected.std() > 0.1 and difference <= TOLERANCE

    beit_jax.save_pretrained(tmp_path / "ours", params, ours, format="hf")
    first, second = (files.read_files(tmp_path / folder).state for folder in ("theirs", "ours"))
    assert set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)
    again, info = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name in ("hidden_size", "image_size", "layer_norm_eps", "use_mean_pooling", *FLAGS.values()):
        assert getattr(again.config, name) == getattr(config, name)
    processor = transformers.BeitImageProcessor.from_pretrained(tmp_path / "ours")
    assert list(processor.image_mean) == [0.5] * 3


@pytest.mark.parametrize("positions", FLAGS)
def test_features_are_the_hidden_states_of_transformers(tmp_path, positions):
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=192, num_hidden_layers=4, num_attention_heads=3, intermediate_size=768, image_size=64)
    config = transformers.BeitConfig(**sizes, use_mask_token=True, **{FLAGS[positions]: True})
    reference = randomise(transformers.BeitForMaskedImageModeling(config))
    reference.save_pretrained(tmp_path)
    model, params, _ = beit_jax.from_pretrained(tmp_path)
    images = draw(64, 2)
    with torch.no_grad():
        states = reference(channels_first(images), output_hidden_states=True).hidden_states
    expected = np.stack([state.numpy() for state in states[1:]], axis=1)  # the first are the embeddings
    assert expected.shape == (2, 4, 17, 192) and expected.std() > 0.3
    for kind, values in (("cls", expected[:, :, 0]), ("mean", expected[:, :, 1:].mean(axis=2))):
        np.testing.assert_allclose(beit_jax.features(model, params, images, kind=kind), values, atol=1e-5)
    maps = beit_jax.features(model, params, images, layers=2, kind="patches")
    np.testing.assert_allclose(maps, expected[:, 1, 1:].reshape(2, 4, 4, 192), atol=1e-5)


def test_segmentation(tmp_path, capsys):
    """transformers takes other layers than the official code (numbered from 1, and one too low); the test takes its."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BeitConfig(
        hidden_size=48, num_hidden_layers=12, num_attention_heads=3, intermediate_size=192, image_size=128,
        num_labels=9, use_relative_position_bias=True, out_indices=[3, 5, 7, 11],
    )  # fmt: skip
    reference = randomise(transformers.BeitForSemanticSegmentation(config))
    for name, buffer in reference.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    reference.save_pretrained(tmp_path / "theirs")
    model, params, ours = beit_jax.from_pretrained(tmp_path / "theirs")
    assert model.layers == (3, 5, 7, 11)
    images = draw(128, count=2)
    with torch.no_grad():
        found = reference(channels_first(images), output_hidden_states=True)
        expected = found.logits.permute(0, 2, 3, 1).numpy()
    logits, (auxiliary,) = jax.jit(model.clone(layers=(1, 3, 5, 9)).apply)({"params": params}, images)
    difference = np.abs(logits - expected).max()
    with capsys.disabled():
        print(f"\nsegmentation: largest difference {difference:.1e} of {expected.std():.2f}")
    assert logits.shape == (2, 32, 32, 9) and auxiliary.shape == (2, 8, 8, 9)
    assert expected.std() > 0.1 and difference <= TOLERANCE
    official = jax.jit(model.apply)({"params": params}, images)[0]
    assert np.abs(official - expected).max() > 1e-2
    beit_jax.save_pretrained(tmp_path / "ours", params, ours, format="hf")
    _, info = transformers.BeitForSemanticSegmentation.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    first, second = (files.read_files(tmp_path / folder).state for folder in ("theirs", "ours"))
    assert set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("positions", "pool"), [("abs", "token"), ("rel", "avg"), ("shared_rel", "avg")])
def test_timm(tmp_path, positions, pool):
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    flag = {"abs": "use_abs_pos_emb", "rel": "use_rel_pos_bias", "shared_rel": "use_shared_rel_pos_bias"}[positions]
    fields = dict.fromkeys(("use_abs_pos_emb", "use_rel_pos_bias", "use_shared_rel_pos_bias"), False) | {flag: True}
    reference = timm.create_model(
        "beit_base_patch16_224", embed_dim=192, depth=3, num_heads=3, num_classes=7, global_pool=pool, init_values=0.1,
        **fields
    )  # fmt: skip
    randomise(reference)
    torch.save(reference.state_dict(), tmp_path / "timm.pth")
    model, params, config = beit_jax.from_pretrained(tmp_path / "timm.pth")
    images = draw(224)
    with torch.no_grad():
        expected = reference(channels_first(images)).numpy()
    assert np.abs(jax.jit(model.apply)({"params": params}, images) - expected).max() <= TOLERANCE
    beit_jax.save_pretrained(tmp_path / "ours", params, config, format="timm")
    again = timm.create_model(f"local-dir:{tmp_path}/ours", pretrained=True).eval()
    state, theirs = again.state_dict(), reference.state_dict()
    assert set(state) == set(theirs) and all(torch.equal(state[name], theirs[name]) for name in state)
    with torch.no_grad():
        np.testing.assert_array_equal(again(channels_first(images)).numpy(), expected)


def picture():
    """A synthetic photograph: smooth shapes and edges, 400 wide and 300 high."""
    y, x = np.mgrid[:300, :400]
    waves = [np.sin(x / 9 + i) + np.cos(y / (7 + i)) + 2 * ((x // 50 + y // 40) % 2) for i in range(3)]
    pixels = np.stack(waves, axis=-1)
    return Image.fromarray((255 * (pixels - pixels.min()) / np.ptp(pixels)).astype(np.uint8))


@pytest.mark.parametrize("keep_ratio", [True, False])
@pytest.mark.parametrize("resize", [64, 72])
def test_preprocessing_of_transformers(keep_ratio, resize):
    """What is written for our section gives the same pixels there, up to their rounding of resized ones."""
    transformers = pytest.importorskip("transformers")
    section = preprocessing.preprocess_section(64, "bicubic", resize, keep_ratio, *STATISTICS["imagenet"])
    written = preprocessing.to_hf(section)
    assert preprocessing.from_hf(written, 64) == section
    theirs = transformers.BeitImageProcessor(**written)(picture(), return_tensors="np")["pixel_values"]
    difference = np.abs(beit_jax.preprocess([picture()], section)[0] - np.moveaxis(theirs[0], 0, -1))
    assert difference.max() < 2.1 / 255 / 0.22 and difference.mean() < 0.3 / 255 / 0.22


@pytest.mark.parametrize("keep_ratio", [True, False])
@pytest.mark.parametrize("resize", [64, 72])
def test_preprocessing_of_timm(keep_ratio, resize):
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    section = preprocessing.preprocess_section(64, "bicubic", resize, keep_ratio)
    written = preprocessing.to_timm(section, 10)
    assert preprocessing.from_timm(written, 64) == section
    keys = ("interpolation", "crop_pct", "crop_mode", "mean", "std")
    transform = timm.data.create_transform(64, is_training=False, **{key: written[key] for key in keys})
    theirs = np.moveaxis(transform(picture()).numpy(), 0, -1)
    np.testing.assert_allclose(beit_jax.preprocess([picture()], section)[0], theirs, atol=1e-5)


@pytest.mark.parametrize("side", [13, 47])
def test_named_methods_of_interpolation(side):
    grid = (side + 1) // 2
    table = torch.randn(27 * 27 + 3, 5, generator=torch.Generator().manual_seed(0))
    square = table[:-3].T.reshape(1, 5, 27, 27)
    bilinear = torch.nn.functional.interpolate(square, size=(side, side), mode="bilinear", align_corners=False)
    ours = interpolate_positions.even_table(27, side)
    np.testing.assert_allclose(np.einsum("yi,xj,hij->hyx", ours, ours, square[0]), bilinear[0], atol=1e-5)
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    theirs = timm.layers.resize_rel_pos_bias_table(table, (grid, grid), (side * side + 3, 5))
    ours = interpolate_positions.linear_table(27, side)
    out = np.einsum("yi,xj,hij->hyx", ours, ours, square[0]).reshape(5, -1).T
    np.testing.assert_allclose(out, theirs[:-3], atol=1e-5)
    np.testing.assert_array_equal(theirs[-3:], table[-3:])


@pytest.mark.parametrize("grid", [7, 24])
@pytest.mark.parametrize("antialias", [False, True])
def test_positions_are_interpolated_as_in_pytorch(grid, antialias):
    positions = torch.randn(1, 5, 14, 14, generator=torch.Generator().manual_seed(0))
    theirs = torch.nn.functional.interpolate(positions, size=(grid, grid), mode="bicubic", antialias=antialias)
    ours = (interpolate_positions.bicubic_antialiased if antialias else interpolate_positions.bicubic)(14, grid)
    np.testing.assert_allclose(np.einsum("yi,xj,hij->hyx", ours, ours, positions[0]), theirs[0], atol=1e-5)


@pytest.fixture(scope="module")
def dalle(tmp_path_factory):
    """OpenAI's modules, narrow, pickled as they were published, and what is read from them."""
    dall_e = pytest.importorskip("dall_e")
    folder = tmp_path_factory.mktemp("dalle")
    torch.manual_seed(0)
    encoder, decoder = dall_e.Encoder(n_hid=32, vocab_size=512).eval(), dall_e.Decoder(n_hid=32, vocab_size=512).eval()
    for module in (encoder, decoder):
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.data.normal_(std=0.3)
    torch.save(encoder, folder / "encoder.pkl")
    torch.save(decoder, folder / "decoder.pkl")
    return folder, encoder, decoder, beit_jax.from_pretrained(folder)


def test_dalle_tokens_of_64_images(dalle, capsys):
    _, encoder, decoder, (model, params, config) = dalle
    assert (config.model.hidden, config.model.vocab, config.model.decoder_init) == (32, 512, 128)
    pixels = 0.1 + 0.8 * np.random.default_rng(0).random((64, 112, 112, 3), dtype=np.float32)
    encode = jax.jit(lambda model, pixels: model.apply({"params": params}, pixels, method="encode"), static_argnums=0)
    ours, half = (np.asarray(encode(m, pixels)) for m in (model, model.clone(dtype=jax.numpy.bfloat16)))
    with torch.no_grad():
        theirs = encoder(channels_first(pixels)).permute(0, 2, 3, 1).numpy()
        tokens = theirs.argmax(-1)
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(tokens[:4]), 512).permute(0, 3, 1, 2).float()
        outputs = decoder(one_hot).permute(0, 2, 3, 1).numpy()
    assert theirs.std() > 0.05 and np.abs(ours - theirs).max() <= TOLERANCE
    np.testing.assert_array_equal(ours.argmax(-1), tokens)
    decoded = jax.jit(lambda t: model.apply({"params": params}, t, method="decode_tokens"))(tokens[:4].astype(np.int32))
    assert np.abs(decoded - outputs).max() <= TOLERANCE
    agreement = (half.argmax(-1) == tokens).mean()
    with capsys.disabled():
        print(f"\ndVAE: encoder {np.abs(ours - theirs).max():.1e}, bfloat16 agrees on {agreement:.2%} of the tokens")
    assert agreement > 0.9


def test_dalle_there_and_back(dalle, tmp_path):
    folder, _, _, (_, params, config) = dalle
    beit_jax.save_pretrained(tmp_path / "out", params, config, format="dalle")
    first, second = (files.read_files(path).state for path in (folder, tmp_path / "out"))
    assert set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)
    module = torch.load(tmp_path / "out" / "encoder.pkl", weights_only=False)
    assert type(module).__module__ == "dall_e.encoder"


def test_verify_prints_each_layer(dalle, tmp_path, capsys):
    folder, *_ = dalle
    convert([str(folder), str(tmp_path / "out"), "--to=beit_jax", "--verify"])
    printed = capsys.readouterr().out
    assert all(f"encoder group_{i}" in printed for i in range(1, 5)) and "decoder output" in printed
    transformers = pytest.importorskip("transformers")
    config = transformers.BeitConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, image_size=32, num_labels=3,
        use_relative_position_bias=True,
    )  # fmt: skip
    randomise(transformers.BeitForImageClassification(config)).save_pretrained(tmp_path / "hf")
    convert([str(tmp_path / "hf"), str(tmp_path / "hf_out"), "--to=beit_jax", "--verify"])
    printed = capsys.readouterr().out
    assert "block 1" in printed and "logits" in printed


def test_verify_notices_a_difference(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BeitConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, image_size=32, num_labels=3
    )
    randomise(transformers.BeitForImageClassification(config)).save_pretrained(tmp_path / "hf")
    loaded = beit_jax.from_pretrained(tmp_path / "hf")
    flat = flatten(loaded.params)
    name = "encoder/blocks/mlp/fc1/bias"
    wrong = unflatten(flat | {name: flat[name] + 1.0})
    found = verify.largest_differences(loaded._replace(params=wrong), tmp_path / "hf", "hf")
    assert found["block 0"] > 1e-3 and found["logits"] > 1e-3
