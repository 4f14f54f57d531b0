"""Patches that show what tokens stand for, where a tokenizer makes no images of them."""

from pathlib import Path

import jax
import numpy as np
import pytest
from beit_references import random_parameters
from ml_collections import ConfigDict
from PIL import Image
from tiny import config as tiny

from beit_jax import config as configs
from beit_jax import tasks
from beit_jax.config import python_file
from beit_jax.convert.pretrained import from_pretrained
from beit_jax.errors import UserError
from beit_jax.training import checkpoint
from beit_jax.visualize import __main__ as visualize
from beit_jax.visualize import code_examples

pytestmark = pytest.mark.usefixtures("in_the_checkout")

OUTSIDE = Path(__file__).parents[1] / "outside" / "patches.py"


def test_the_census_counts_and_keeps_some_of_each_token():
    tokens = np.random.default_rng(0).integers(0, 5, (60, 3, 4))
    tokens[:, 0, 0] = 6  # in every image, more than once in none; 5 and 7 never occur
    census = code_examples.Census(vocab=8, per_code=4)
    for start in range(0, 60, 25):
        census.add(tokens[start : start + 25])
    np.testing.assert_array_equal(census.counts, np.bincount(tokens.ravel(), minlength=8))
    expected = sorted(range(8), key=lambda code: -census.counts[code])[:6]
    assert census.most_used(100) == expected and census.most_used(2) == expected[:2]
    for code in range(8):
        found = census.examples(code, 4)
        assert len(found) == (0 if code in (5, 7) else 4)
        assert all(tokens[place] == code for place in found)
        assert len({place.image for place in found}) == len(found)  # of different images
    assert census.examples(6, 2) == census.examples(6, 4)[:2]
    assert code_examples.describe_usage(census, 6).startswith("6 of 8 tokens occur in 60 images (perplexity 5.")


def test_any_image_is_as_likely():
    """And not the first ones, which in a folder are all of one class."""
    chosen = []
    for seed in range(200):
        census = code_examples.Census(vocab=1, per_code=3, seed=seed)
        for _ in range(4):
            census.add(np.zeros((5, 1, 2), np.int32))
        chosen += [place.image for place in census.examples(0, 3)]
    assert np.bincount(chosen, minlength=20).min() > 10  # of 30


def outside(vocab=6):
    module = python_file(OUTSIDE)
    return module.Patches(ConfigDict(dict(kind="patches", vocab=vocab, patch=4)), image_size=12)


def test_patches_have_the_token_and_lie_among_their_neighbours():
    tokenizer, random = outside(), np.random.default_rng(1)
    params = tokenizer.init(jax.random.key(0))
    images = random.integers(0, 256, (7, 12, 12, 3), dtype=np.uint8)
    batches = [images[:4].astype(np.float32) / 255, images[4:].astype(np.float32) / 255]
    census = code_examples.take_census(tokenizer, params, batches, per_code=3)
    assert census.counts.sum() == 7 * 9 and census.images == 7
    wanted = {code: census.examples(code, 3) for code in census.most_used(6)}
    made = code_examples.cut_out(tokenizer, batches, wanted)
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), constant_values=128)
    assert list(made) == list(wanted)
    for code, examples in wanted.items():
        for (image, row, column), picture in zip(examples, made[code], strict=True):
            np.testing.assert_array_equal(picture, padded[image, 4 * row : 4 * row + 12, 4 * column : 4 * column + 12])
            patch = code_examples.without_context(picture)[None].astype(np.float32) / 255
            assert int(tokenizer.targets(params, patch)[0, 0, 0]) == code
    sheet = code_examples.draw_sheet(census, made, per_code=3)
    first = made[next(iter(made))][0].repeat(6, axis=0).repeat(6, axis=1)  # 12 pixels are enlarged to 72
    top, left = code_examples.TITLE, code_examples.MARGIN
    np.testing.assert_array_equal(sheet[top + 24 : top + 48, left + 24 : left + 48], first[24:48, 24:48])
    faded = sheet[top : top + 20, left : left + 20]
    np.testing.assert_allclose(faded, 255 - 0.6 * (255.0 - first[:20, :20]), atol=0.51)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A VQ-KD, a pre-training that reads it, and a tokenizer of one's own; digits are their evaluation images."""
    folder = tmp_path_factory.mktemp("runs")
    vqkd, pretrain = tiny("vqkd"), configs.defaults("pretrain", "vqkd")
    pretrain.model.update(dict(variant="Micro/4", image_size=16))
    names = ("variant", "vocab", "decoder_depth")
    pretrain.tokenizer.update({name: vqkd.model[name] for name in names} | dict(target_width=32))
    vqkd.model.target_width, pretrain.tokenizer.init_from = 32, "stage:vqkd"
    pretrain.data.eval_ops = "decode|two_views_center(16, 16)|normalize|random_mask(4, 4)|" + (
        "keep('image', 'tokenizer_image', 'mask')"
    )
    python_file(OUTSIDE)
    patches = configs.defaults("tokenizer", "patches")
    patches.model.image_size = 16
    vqkd.data.eval_ops = patches.data.eval_ops = "decode|resize(16)|keep('image')"
    with jax.numpy_dtype_promotion("standard"):
        for name, config in (("vqkd", vqkd), ("pretrain", pretrain), ("patches", patches)):
            config.data.source, config.data.eval_split = "digits", "test"
            params = random_parameters(jax.eval_shape(tasks.create_task(config).init, jax.random.key(0)))
            checkpoint.save_params(folder / name, params, configs.to_json(config))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(folder / "image.png")
    return folder


@pytest.mark.parametrize("name", ["vqkd", "pretrain", "patches"])
def test_the_command(runs, tmp_path, capsys, monkeypatch, name):
    flags = [f"--checkpoint={runs / name}", f"--out={tmp_path / 'out'}", "--codes=3"]
    if name == "patches":
        monkeypatch.setattr(python_file(OUTSIDE).Patches, "can_decode", False)
    if name != "pretrain":
        flags.append(f"--image={runs / 'image.png'}")
    visualize.main(["tokens", *flags])
    printed = capsys.readouterr().out
    assert "tokens occur in 359 images" in printed and "; the 3 that occur most often are shown" in printed
    expected = {"codebook.png"} if name == "pretrain" else {"codebook.png", "tokens.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    rows = 2 * (72 + code_examples.GAP) + code_examples.TITLE
    assert np.asarray(Image.open(tmp_path / "out" / "codebook.png")).shape[0] == rows


def test_images_that_the_user_names(runs, tmp_path, capsys):
    flags = [f"--checkpoint={runs / 'vqkd'}", f"--out={tmp_path / 'out'}"]
    visualize.main(["tokens", *flags, f"--images={runs / 'image.png'}"])
    assert "tokens occur in 1 image (" in capsys.readouterr().out


def test_a_checkpoint_without_images(runs, tmp_path):
    _, params, config = from_pretrained(runs / "vqkd")
    config.data.source = ""
    checkpoint.save_params(tmp_path / "run", params, configs.to_json(config))
    with pytest.raises(UserError, match=r"does not say which images .*; give some, such as --images FOLDER"):
        visualize.main(["tokens", f"--checkpoint={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()
