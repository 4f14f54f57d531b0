"""Thirteen bands, grey, sixteen bits and rectangles: the parts, and one run from tokenizer to attention maps."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import tiny

import beit_jax
from beit_jax import config as configs
from beit_jax import embed, evaluate, measure_statistics, predict, train
from beit_jax.config import statistics
from beit_jax.config.recipes import set_channels
from beit_jax.convert import preprocessing
from beit_jax.data import pixel_moments
from beit_jax.data.check_channels import check_channels
from beit_jax.data.decoding.channels import decode_channels
from beit_jax.data.features import ARRAY
from beit_jax.data.preprocessing import build_program
from beit_jax.data.sources.image_files import find_images
from beit_jax.errors import UserError
from beit_jax.models import image_size
from beit_jax.tasks import create_task
from beit_jax.tasks.pretrain_report import hide_patches
from beit_jax.tasks.shown_bands import chosen, to_rgb
from beit_jax.training.inflate_channels import KERNEL, inflate_channels
from beit_jax.training.interpolate_positions import interpolate_positions
from beit_jax.training.params import flatten
from beit_jax.visualize.__main__ import main as visualize


def decode(encoded, ops):
    features = {"image": tf.constant(encoded), "_id": tf.constant("x")}
    return build_program(ops).example(features, tf.zeros([2], tf.int64))


def test_sizes_are_one_number_or_two():
    assert [image_size.parse(text) for text in ("64", "96x192", "(96, 192)", "8x8")] == [64, (96, 192), (96, 192), 8]
    config = tiny.config("classify")
    configs.override(config, ["--config.model.image_size=16x32"])
    configs.validate(config)
    assert config.model.image_size == (16, 32)
    configs.override(config, ["--config.model.image_size=16x30"])
    with pytest.raises(UserError, match=r"model.image_size=16x30 is not divisible by the patch size 4"):
        configs.validate(config)


def test_sixteen_bits_are_kept_where_asked():
    levels = np.arange(0, 60000, 1000, np.uint16).reshape(6, 10, 1)
    encoded = tf.io.encode_png(levels).numpy()
    kept = decode(encoded, "decode(channels=1, max_value=10000)")["image"]
    np.testing.assert_allclose(kept, levels / np.float32(10000))
    assert decode(encoded, "decode")["image"].dtype == tf.uint8
    for channels in (1, 2, 3, 4):
        for dtype in (np.uint8, np.uint16):
            white = tf.io.encode_png(np.full((2, 3, channels), np.iinfo(dtype).max, dtype))
            found = decode_channels(white, channels, 65_535.0, None, lambda encoded: tf.io.decode_png(encoded, 3))
            np.testing.assert_array_equal(found, np.ones((2, 3, channels)))
    eight = tf.io.encode_png(np.full((2, 3, 1), 7, np.uint8)).numpy()
    np.testing.assert_allclose(decode(eight, "decode(max_value=255)")["image"], np.full((2, 3, 3), 7 / 255), rtol=1e-6)


def test_other_libraries_have_no_words_for_sixteen_bits(tmp_path):
    config = tiny.config("classify")
    with config.unlocked():
        config.preprocess = preprocessing.preprocess_section(16, max_value=10_000.0)
    with pytest.raises(UserError, match="format='hf' is for images of 8 bits, and the model divides pixels by 10000"):
        beit_jax.save_pretrained(tmp_path / "out", {}, config)


def test_two_and_four_channels_are_those_of_the_file():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4), np.uint8)
    encoded = tf.io.encode_png(pixels).numpy()
    np.testing.assert_array_equal(decode(encoded, "decode(channels=4)")["image"], pixels)
    rgb = tf.io.encode_png(pixels[..., :3]).numpy()
    fault = decode(rgb, "decode(channels=4)")["_fault"].numpy()
    assert fault == b"3 channels, expected data.channels=4"
    with pytest.raises(UserError, match="image files have 1 to 4"):
        decode(rgb, "decode(channels=13)")


def test_float_pixels_are_resized_channel_by_channel():
    from beit_jax.data.ops.resample import resize

    image = np.random.default_rng(0).random((9, 12, 5), np.float32)
    found = resize(tf.constant(image), 4, 7, "bicubic").numpy()
    alone = [resize(tf.constant(image[..., i : i + 1]), 4, 7, "bicubic").numpy()[..., 0] for i in range(5)]
    np.testing.assert_allclose(found, np.stack(alone, axis=-1), atol=1e-6)


def test_a_folder_of_other_channels_is_told_before_the_run(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(tf.io.encode_png(np.zeros((4, 4, 3), np.uint8)).numpy())
    data = tiny.config("classify").data
    data.source, data.channels = f"folder:{tmp_path}", 4
    with pytest.raises(UserError, match=r"a/1.png has 3 channels, and data.channels=4; expected PNG files of as many"):
        check_channels(data)
    data.channels = 3
    check_channels(data)


@pytest.mark.parametrize(
    "op",
    ["color_jitter(0.4)", "randaugment(2, 9.0, statistics=((0.5, 0.4, 0.3), (1, 1, 1)))", "photometric_distortion()"],
)
def test_ops_for_rgb_say_so(op):
    image = tf.io.encode_png(np.zeros((4, 4, 4), np.uint8)).numpy()
    with pytest.raises(UserError, match="is for red, green and blue, and images have 4 channels: leave it out"):
        decode(image, f"decode(channels=4)|{op}")
    config = tiny.config("classify")
    config.data.ops = f"decode|{op}|flip_lr"
    assert set_channels(config, 4).data.ops == "decode | flip_lr"


def test_an_inflated_encoder_gives_the_same_for_equal_channels():
    three, thirteen = tiny.config("classify"), tiny.config("classify")
    thirteen.data.channels = 13
    old, new = create_task(three), create_task(thirteen)
    params, target = old.init(jax.random.key(0)), jax.eval_shape(new.init, jax.random.key(0))
    with pytest.raises(UserError, match="images of 3 channels, and these have 13: inflate=average"):
        inflate_channels(params, target, "")
    inflated = inflate_channels(params, target, "average")
    assert flatten(inflated)[KERNEL].shape == (4, 4, 13, 32)
    grey = jax.random.normal(jax.random.key(1), (2, 16, 16, 1))
    ours, theirs = (
        task.model.apply({"params": tree}, jnp.broadcast_to(grey, (2, 16, 16, channels)))
        for task, tree, channels in ((new, inflated, 13), (old, params, 3))
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_statistics_have_one_number_a_channel():
    assert statistics.parse("inception", 4) == ((0.5,) * 4, (0.5,) * 4)
    with pytest.raises(UserError, match=r"statistics of 3 channels, and data.channels=4"):
        statistics.parse("imagenet", 4)
    config = tiny.config("classify")
    config.data.channels, config.data.statistics = 2, "(0.1, 0.2), (1.0, 2.0)"
    config.data.eval_ops = "decode|normalize(statistics)"
    assert configs.fill_in_sizes(config).data.eval_ops == "decode(channels=2) | normalize(((0.1, 0.2), (1.0, 2.0)))"
    config.data.eval_ops = "decode((1, (2), 3), channels=2)|flip_lr"
    assert configs.fill_in_sizes(config).data.eval_ops == "decode(background=(1, 2, 3), channels=2) | flip_lr"
    config.data.eval_ops = "decode(channels=4)"
    with pytest.raises(UserError, match=r"data.channels=2, and the ops begin with decode\(channels=4\); leave out ch"):
        configs.fill_in_sizes(config)


def test_pixels_are_measured_as_fast_ops_decode_them(tmp_path, caplog):
    image = np.random.default_rng(0).random((6, 8, 16, 3), np.float32)
    image[2, 1] = np.nan
    np.savez(tmp_path / "images.npz", image=image)
    data = tiny.config("pretrain").data
    data.update(dict(source=f"npz:{tmp_path}/images.npz", split="train", ops="decode(max_value=1.0)|flip_lr"))
    mean, _ = pixel_moments.measure(data)
    np.testing.assert_allclose(mean, image[[0, 1, 3, 4, 5]].mean(axis=(0, 1, 2)), rtol=1e-6)
    assert "1 images cannot be read, and do not count; the first: image of" in caplog.text and "[2]: pix" in caplog.text
    fast = "decode_view((8, 16), 0.2, background=(0, 0, 255), exif_transpose=False)|blockwise_mask(2, 1, (2, 4))"
    assert pixel_moments._decoding(fast) == "decode(background=(0, 0, 255), exif_transpose=False)"
    assert pixel_moments._decoding("decode_view(16, 0.2, 1.0, 7)") == "decode(background=7)"


def test_positions_of_rectangles():
    small, large = tiny.config("pretrain"), tiny.config("pretrain")
    for config, size in ((small, (16, 32)), (large, (32, 32))):
        config.model.image_size = size
    trees = [jax.eval_shape(create_task(config).init, jax.random.key(0)) for config in (small, large)]
    found = interpolate_positions(trees[0], trees[1], grid=(8, 8), own_grid=(4, 8))
    name = "encoder/relative_position/table"
    assert flatten(found)[name].shape == flatten(trees[1])[name].shape
    assert flatten(interpolate_positions(trees[0], trees[0])) == flatten(trees[0])


def test_pictures_show_three_channels():
    assert [chosen(1), chosen(2, (2,)), chosen(13), chosen(4, (9, 3, 2))] == [[0] * 3, [1] * 3, [0, 1, 2], [3, 2, 1]]
    images = np.random.default_rng(0).random((2, 3, 4, 13)).astype(np.float32) * 0.1
    shown = to_rgb(images, (4, 3, 2))
    assert shown.shape == (2, 3, 4, 3) and shown.min() == 0 and shown.max() == 1
    np.testing.assert_allclose(np.corrcoef(shown[..., 0].ravel(), images[..., 3].ravel())[0, 1], 1.0, rtol=1e-5)
    darker = [to_rgb(one, (4, 3, 2), [images, 0.5 * images]) for one in (images, 0.5 * images)]
    np.testing.assert_allclose(np.ptp(darker[1]), 0.5 * np.ptp(darker[0]), rtol=0.1)
    assert to_rgb(images[..., :3]) is not None and np.shares_memory(to_rgb(images[..., :3]), images)


@pytest.mark.parametrize(
    ("channels", "bands"), [(1, ()), (2, ()), (3, ()), (3, (3, 1, 2)), (5, ()), (5, (4, 3, 2)), (5, (5,))]
)
def test_masked_patches_are_grey_whatever_the_channels(channels, bands):
    """And the stretch is that of what there is, of the original and of reconstructions that go beyond it."""
    scale = 1.0 if channels in (1, 3) else np.linspace(0.05, 0.2, channels)
    original = (np.random.default_rng(0).uniform(0.2, 1.0, (2, 8, 8, channels)) * scale).astype(np.float32)
    mask = np.random.default_rng(1).random((2, 4, 4)) < 0.5
    masked = np.asarray(hide_patches(jnp.asarray(original), jnp.asarray(mask)))
    shown = [to_rgb(one, bands, [original, masked, 0.5 * original]) for one in (original, masked)]
    hidden = mask.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(shown[1][hidden], 0.5)
    np.testing.assert_array_equal(shown[1][~hidden], shown[0][~hidden])
    assert min(one.min() for one in shown) >= 0 and shown[0].max() > 0.99
    if channels in (2, 5):
        np.testing.assert_array_equal(shown[0], to_rgb(original, bands, [original, 0.5 * original]))


@pytest.mark.parametrize(
    ("channels", "dtype", "max_value"),
    [(13, np.uint16, 10_000.0), (4, np.uint8, 0.0), (2, np.float32, 7.0), (1, np.uint8, 65_535.0)],
)
@pytest.mark.parametrize(("size", "resize"), [((16, 32), (18, 36)), ((32, 16), (36, 18)), (16, 18)])
def test_arrays_are_prepared_as_by_the_input(channels, dtype, max_value, size, resize):
    pixels = (np.random.default_rng(0).random((21, 50, channels)) * 200).astype(dtype)
    about = dict(mean=(0.4,) * channels, std=(0.3,) * channels, channels=channels, max_value=max_value)
    section = preprocessing.preprocess_section(size, resize=resize, **about)
    ops = f"{preprocessing.resized_ops(section)}|{preprocessing.normalize_op(section)}|keep('image')"
    features = {ARRAY: tf.constant(pixels), "_id": tf.constant("x")}
    expected = build_program(ops).example(features, tf.zeros([2], tf.int64))["image"].numpy()
    found = beit_jax.preprocess([pixels], section)[0]
    assert found.shape == expected.shape
    level = 1.01 / 255 / 0.3 if dtype == np.uint8 else 5e-6 * np.abs(expected).max() + 1e-6
    np.testing.assert_allclose(found, expected, atol=level)
    with pytest.raises(UserError, match=rf"found an image of shape \(50, {channels}\); expected \[h, w, {channels}\]"):
        beit_jax.preprocess([pixels[0]], section)


def test_images_of_an_array_are_named_by_their_rows(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 6, 13), np.uint16))
    np.save(tmp_path / "one.npy", np.zeros((4, 6, 13), np.uint16))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    assert [(file.name, file.row) for file in find_images([str(tmp_path / "a.npy")])] == [
        *(("a.npy[0]", 0), ("a.npy[1]", 1), ("a.npy[2]", 2))
    ]
    assert len(find_images([str(tmp_path / "one.npy")])) == 1
    with pytest.raises(UserError, match=r"a.npy holds images of its own; expected it alone"):
        find_images([str(tmp_path / "a.npy"), str(tmp_path)])
    with pytest.raises(UserError, match=r"text.npy has the shape \[1\]; expected \[n, h, w, c\]"):
        find_images([str(tmp_path / "text.npy")])


@pytest.fixture
def bands(tmp_path):
    random = np.random.default_rng(0)
    labels, images = np.arange(48) % 2, random.integers(200, 3000, (48, 20, 40, 13)).astype(np.uint16)
    images[labels == 1, :, :, 5] += 3000
    split = dict(train_image=images[:32], train_label=labels[:32], eval_image=images[32:], eval_label=labels[32:])
    np.savez(tmp_path / "bands.npz", **split)
    np.save(tmp_path / "one.npy", images[0])
    np.save(tmp_path / "some.npy", images[:5])
    return tmp_path


@pytest.mark.slow
def test_thirteen_bands_of_a_rectangle_from_tokenizer_to_attention_maps(bands, capsys):
    with jax.numpy_dtype_promotion("standard"):
        _run_thirteen_bands(bands, capsys)


def _run_thirteen_bands(bands, capsys):
    common = [f"--config.data.source=npz:{bands}/bands.npz", "--config.data.split=train", "--config.batch_size=8"]
    common += ["--config.data.eval_split=eval", "--config.data.max_value=10000", "--config.model.image_size=16x32"]
    common += ["--config.steps=6"]

    def run(file, name, *more):
        train.main([f"--config=configs/{file}.py:runlocal,channels=13", *common, f"--workdir={bands}/{name}", *more])

    measure_statistics.main(["--config=configs/pretrain.py:runlocal,channels=13", *common])
    flag = re.search(r"--config.data.statistics='(.*)'", capsys.readouterr().out)
    mean, _ = statistics.parse(flag[1], 13)
    assert mean[0] == pytest.approx(0.16, abs=0.01) and mean[5] == pytest.approx(0.31, abs=0.01)
    run("tokenizer", "tokenizer")
    token = f"--config.tokenizer.init_from={bands}/tokenizer"
    with pytest.raises(UserError, match="of images of 13 channels nothing is known"):
        run("pretrain", "pretrain", token)
    run("pretrain", "pretrain", token, f"--config.data.statistics={flag[1]}")
    run("finetune", "finetune", f"--config.init_from={bands}/pretrain")
    evaluate.main([f"--checkpoint={bands}/finetune", f"--pictures={bands}/pictures"])
    assert (bands / "pictures" / "predictions.png").is_file()
    some = f"--images={bands}/some.npy"
    predict.main([f"--checkpoint={bands}/finetune", some, f"--out={bands}/classes.csv"])
    assert (bands / "classes.csv").read_text().count("some.npy[") == 5
    embed.main([f"--checkpoint={bands}/pretrain", some, f"--out={bands}/f.npz", "--kind=patches", "--image_size=8x24"])
    assert np.load(bands / "f.npz")["features"].shape == (5, 2, 6, 32)
    arguments = [f"--checkpoint={bands}/pretrain", f"--image={bands}/one.npy", f"--out={bands}/maps", "--bands=4,3,2"]
    visualize(["attention", *arguments])
    assert list((bands / "maps").glob("attention_layer*.png"))
