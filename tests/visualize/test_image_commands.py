"""The commands that take one image: their pictures to the pixel, and one line for each wrong input."""

import io

import jax
import numpy as np
import pytest
from beit_references import random_parameters
from PIL import Image
from tiny import config as tiny

import beit_jax
from beit_jax import config as configs
from beit_jax import tasks
from beit_jax.convert import preprocessing
from beit_jax.errors import UserError
from beit_jax.models import dvae
from beit_jax.models.dvae_tokenizer import DvaeTokenizer
from beit_jax.training import checkpoint
from beit_jax.visualize import __main__ as visualize
from beit_jax.visualize import attention, figures, loading, predictions


@pytest.fixture(autouse=True)
def promotion_that_loading_needs():
    with jax.numpy_dtype_promotion("standard"):
        yield


def saved(folder, name, config):
    params = random_parameters(jax.eval_shape(tasks.create_task(config).init, jax.random.key(0)))
    checkpoint.save_params(folder / name, params, configs.to_json(config))
    return params


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of every task, the same pre-trained model for transformers, and a picture."""
    folder = tmp_path_factory.mktemp("runs")
    with jax.numpy_dtype_promotion("standard"):
        saved(folder, "tokenizer", tiny("tokenizer"))
        config = tiny("pretrain")
        config.model.relative_position = "shared"
        config.tokenizer.init_from = "stage:tokenizer"
        config.mesh.update(dict(data=3, fsdp=4))  # of other devices than there are here
        config.batch_size = 36
        params = saved(folder, "pretrain", config)
        config = configs.from_json(configs.to_json(config))
        with config.unlocked():
            config.preprocess = preprocessing.official_section(16)
        beit_jax.save_pretrained(folder / "hf", params, config)
        saved(folder, "pixels", tiny("pretrain_pixels"))
        for task in ("classify", "segment"):
            config = tiny(task)
            config.model.relative_position = "per_block"
            saved(folder, task, config)
        config = tiny("probe")
        config.model.relative_position, config.encoder.init_from = "shared", str(folder / "pretrain")
        saved(folder, "probe", config)
        for name, changes in (("nine", dict(vocab=9)), ("coarse", dict(groups=3, image_size=32))):
            config = tiny("tokenizer")
            config.model.update(changes)
            saved(folder, name, config)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(folder / "image.png")
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """Figures, which take most of the time, are not drawn."""
    target = io.BytesIO()
    Image.new("RGB", (4, 4)).save(target, "png")
    for name in ("draw_panels", "draw_distances"):
        monkeypatch.setattr(figures, name, lambda *arguments, **settings: target.getvalue())


def show(runs, what, name, out, *more, image="image.png"):
    visualize.main([what, f"--checkpoint={runs / name}", f"--image={runs / image}", f"--out={out}", *more])
    return {path.stem: np.asarray(Image.open(path)) for path in out.iterdir()}


def pixels(runs, size, method):
    """The central part of the picture, by Pillow alone."""
    height, width = size
    scale = min(40 / height, 60 / width)
    left, top = (60 - width * scale) / 2, (40 - height * scale) / 2
    box = (left, top, 60 - left, 40 - top)
    return np.asarray(Image.open(runs / "image.png").resize((width, height), Image.Resampling[method], box=box))


@pytest.mark.parametrize(("name", "size"), [("pretrain", (16, 24)), ("hf", (16, 16)), ("probe", (24, 16))])
def test_attention(runs, tmp_path, capsys, request, name, size):
    """The map of a point, on a rectangle too, is that of the patch it lies on, and goes on its pixels."""
    if name != "hf":
        request.getfixturevalue("undrawn")
    flags = ["--points=31,21;12,5"] if size[0] < size[1] else ["--points=31,21"]
    found = show(
        runs, "attention", name, tmp_path / "out", *flags, "--heads", "--layer=1", f"--size={size[0]}x{size[1]}"
    )
    assert set(capsys.readouterr().out.split()) == {str(path) for path in (tmp_path / "out").iterdir()}
    points = range(1, len(flags[0].split(";")) + 1)
    expected = {f"attention_layer01{end}" for n in points for end in ("", f"_point{n}", f"_point{n}_heads")}
    assert set(found) == expected | {"attention_distance"}

    encoder, params, *_ = loading.load_encoder(str(runs / name), size)
    grid = (size[0] // 4, size[1] // 4)
    seen = (pixels(runs, size, "BICUBIC").astype(np.float32) / 255 - 0.5) / 0.5
    weights = attention.attention_weights(encoder, params, seen[None])
    row, column = 21 * grid[0] // 40, int((31 - (60 - 40 * size[1] / size[0]) / 2) / (40 * size[1] / size[0]) * grid[1])
    line = weights[0, 0, :, 1 + row * grid[1] + column, 1:]
    scale = 448 // max(size)
    shown = pixels(runs, (scale * size[0], scale * size[1]), "LANCZOS")
    mean = (line / line.sum(axis=1, keepdims=True)).mean(axis=0).reshape(grid)
    picture = found["attention_layer01_point1"]
    expected = attention.outline(attention.overlay(shown, mean), (row, column), grid)
    np.testing.assert_allclose(picture.astype(int), expected.astype(int), atol=1)
    assert (expected != attention.overlay(shown, mean)).any()


@pytest.mark.parametrize("name", ["classify", "segment", "pretrain"])
def test_points_are_chosen_and_all_layers_shown(runs, tmp_path, undrawn, name):
    found = show(runs, "attention", name, tmp_path / "out", "--layer=all")
    layers = [f"attention_layer0{layer}" for layer in (1, 2)]
    points = [f"{layer}_point{number}" for layer in layers for number in (1, 2, 3, 4)]
    assert set(found) == {*layers, *points, "attention_distance"}
    assert all(found[point].shape == (448, 448, 3) for point in points)


def test_the_transformer_of_a_vqkd_is_found(tmp_path):
    params = saved(tmp_path, "vqkd", tiny("vqkd"))
    encoder, own, size, preprocess = loading.load_encoder(str(tmp_path / "vqkd"))
    assert size == (16, 16) and preprocess.mean == preprocess.std == (0.5, 0.5, 0.5)
    images = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    made = tasks.create_task(tiny("vqkd")).model.bind({"params": params})
    found = encoder.apply({"params": own}, 2.0 * images - 1.0)
    np.testing.assert_allclose(found, made.encoder(2.0 * images - 1.0), rtol=1e-6)


def test_tokens(runs, tmp_path, request):
    """The decoded picture is what the network itself makes of the same pixels; a run shows its tokenizer."""
    net, params = tasks.create_task(tiny("tokenizer")).model, beit_jax.from_pretrained(runs / "tokenizer").params
    view = dvae.map_pixels(pixels(runs, (8, 12), "LANCZOS")[None].astype(np.float32) / 255)

    @jax.jit
    def decoded(params, view):
        tokens = net.apply({"params": params}, view, method=net.tokens)
        return dvae.reconstruction(net.apply({"params": params}, tokens, method=net.decode_tokens))

    expected = 255 * np.asarray(decoded(params, view))[0]
    for name in ("tokenizer", "pretrain"):
        found = show(runs, "tokens", name, tmp_path / name, "--size=8x12")
        np.testing.assert_allclose(found["reconstruction"], expected, atol=0.51)
        assert set(found) == {"tokens", "reconstruction", "codebook"}
        visualize.main(["tokens", f"--checkpoint={runs / name}", f"--out={tmp_path / 'alone'}"])
        assert [path.name for path in (tmp_path / "alone").iterdir()] == ["codebook.png"]
        request.getfixturevalue("undrawn")  # the second time


def test_predictions(runs, tmp_path, capsys, request):
    """Predicted tokens at masked positions, true ones elsewhere, decoded; a tokenizer may be given."""
    found = show(
        runs, "predictions", "pretrain", tmp_path / "out", "--masked=6", "--seed=1", "--position=2,1", "--top=3"
    )
    names = {"predictions", "original", "masked", "tokenizer", "prediction", "top_tokens"}
    assert set(found) == names
    printed = capsys.readouterr().out.splitlines()
    probabilities = [float(line.split()[-1]) for line in printed[-3:]]
    assert probabilities == sorted(probabilities, reverse=True) and 0 < sum(probabilities) <= 1
    assert printed[-4].startswith("position 2,1 (")

    view = pixels(runs, (8, 8), "LANCZOS")
    np.testing.assert_allclose(found["original"], view, atol=1)
    hidden = (found["masked"] == 128).all(axis=-1).reshape(4, 2, 4, 2).all(axis=(1, 3))
    assert 1 <= hidden.sum() <= 6
    shown = ~hidden.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(found["masked"][shown], found["original"][shown])
    model, params, _ = beit_jax.from_pretrained(runs / "pretrain")
    seen = ((pixels(runs, (16, 16), "BICUBIC").astype(np.float32) / 255 - 0.5) / 0.5)[None]
    logits = np.asarray(jax.jit(model.apply)({"params": params}, seen, hidden[None]))[0]
    net, own = tasks.create_task(tiny("tokenizer")).model, beit_jax.from_pretrained(runs / "tokenizer").params
    mapped = dvae.map_pixels(view[None].astype(np.float32) / 255)
    tokens = jax.jit(lambda p, x: net.apply({"params": p}, x, method=net.tokens))(own, mapped)
    mixed = np.where(hidden, logits.argmax(axis=-1).reshape(4, 4), tokens)
    outputs = jax.jit(lambda p, z: net.apply({"params": p}, z, method=net.decode_tokens))(own, mixed.astype(np.int32))
    np.testing.assert_allclose(found["prediction"], 255 * np.asarray(dvae.reconstruction(outputs))[0], atol=0.51)
    chosen = np.exp(logits[2 * 4 + 1].astype(np.float64))
    np.testing.assert_allclose(probabilities, np.sort(chosen / chosen.sum())[::-1][:3], atol=6e-5)

    request.getfixturevalue("undrawn")
    flags = ["--masked=6", "--seed=1", "--position=2,1"]
    same = show(runs, "predictions", "hf", tmp_path / "hf", *flags, f"--tokenizer={runs / 'tokenizer'}")
    for name in ("original", "masked", "tokenizer", "prediction"):
        np.testing.assert_array_equal(same[name], found[name])


@pytest.mark.parametrize("method", ["lanczos", "bicubic"])
def test_predictions_see_the_view_of_the_run(runs, method):
    loaded = loading.load_pretraining(str(runs / "pretrain"))
    loaded.task.config.data.eval_ops = f"decode|two_views_center(16, 8, tokenizer_method='{method}')"
    made = predictions.predict(loaded, Image.open(runs / "image.png"), np.eye(4, dtype=bool))
    np.testing.assert_allclose(255 * made.pictures["original"], pixels(runs, (8, 8), method.upper()), atol=1)


def test_a_given_tokenizer_sees_one_token_for_each_patch(runs):
    """Whatever images it was trained on; 16 patches of the model, and 4 pixels a token."""
    tokenizer = loading.load_pretraining(str(runs / "hf"), str(runs / "coarse")).task.tokenizer
    assert (tokenizer.image_size, tokenizer.grid, tokenizer.section.groups) == (16, (4, 4), 3)


WRONG = [
    ("attention", "tokenizer", [], "tokenizer is of the class DiscreteVAE, without a vision transformer"),
    ("attention", "nowhere", [], "nowhere does not exist"),
    ("attention", "pretrain", ["--layer=3"], "--layer=3: the encoder has the layers 1 to 2"),
    ("attention", "pretrain", ["--layer=0"], "--layer=0: the encoder has the layers 1 to 2"),
    ("attention", "pretrain", ["--layer=last"], "--layer=last: the encoder has the layers 1 to 2"),
    ("attention", "pretrain", ["--points=5,5"], "the point 5,5 is outside of what the model sees; expected x from 10"),
    ("attention", "pretrain", ["--points=20"], "found '20', expected \"x,y;x,y\" in pixels"),
    ("attention", "pretrain", ["--size=18"], "found images of 18x18 pixels, expected multiples of the patch size 4"),
    ("attention", "pretrain", ["--size=0x8"], "found '0x8', expected a side in pixels or HEIGHTxWIDTH"),
    ("attention", "pretrain", ["--image=none.png"], "--image=none.png does not exist"),
    ("attention", "pretrain", ["--image={runs}/text.png"], "text.png cannot be read as a picture"),
    ("attention", "pretrain", ["--out=s3://bucket/x"], "is a URL"),
    ("attention", "pretrain", ["--out={runs}/text.png"], "text.png cannot be written"),
    ("tokens", "classify", [], "is a model of the task 'classify', which has no tokenizer; expected a tokenizer"),
    ("tokens", "hf", [], "which tokenizer it was trained with; give that itself as --checkpoint"),
    ("tokens", "tokenizer", ["--size=7"], "--size=7x7: expected multiples of 2, the pixels of a token"),
    ("tokens", "tokenizer", ["--images={runs}/image.png"], "--images are for tokenizers that make no images of tokens"),
    ("tokens", "tokenizer", ["--images={runs}/none"], "none does not exist; expected an image, or a folder of images"),
    ("tokens", "tokenizer", ["--codes=0"], "found '0', expected an integer from 1 on"),
    ("predictions", "classify", [], "is a model of the task 'classify'; expected one pre-trained on tokens"),
    ("tokens", "pixels", [], "is a model of the task 'pretrain_pixels', which has no tokenizer"),
    ("predictions", "pixels", [], "is a model of the task 'pretrain_pixels'; expected one pre-trained on tokens"),
    ("predictions", "hf", [], "does not say which tokenizer it was trained with; give it: --tokenizer"),
    ("predictions", "hf", ["--tokenizer={runs}/nine"], "has 9 tokens, and"),
    ("predictions", "pretrain", ["--masked=17"], "--masked=17; expected 1 to the 16 patches"),
    ("predictions", "pretrain", ["--position=4,0"], "--position=4,0 is outside of the 4x4 patches"),
    ("predictions", "pretrain", ["--top=17"], "--top=17; expected 1 to 16"),
    ("predictions", "pretrain", ["--seed=-1"], "found '-1', expected an integer"),
]


@pytest.mark.parametrize(("what", "name", "flags", "message"), WRONG)
def test_wrong_input_is_one_line_and_writes_nothing(runs, tmp_path, undrawn, what, name, flags, message):
    with pytest.raises(UserError) as error:
        show(runs, what, name, tmp_path / "out", *(flag.format(runs=runs) for flag in flags))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_predictions_of_a_kind_that_cannot_decode_are_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(DvaeTokenizer, "can_decode", False)
    with pytest.raises(UserError, match=r"the tokenizer of .*which cannot make images of tokens"):
        show(runs, "predictions", "pretrain", tmp_path / "out")
    assert not (tmp_path / "out").exists()
