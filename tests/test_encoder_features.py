"""Features of images by the encoder of any model: their values, shapes and compilations, and what is refused."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beit_references import random_parameters
from image_models import save
from tiny import config as tiny

import beit_jax
from beit_jax import encoder_features
from beit_jax.errors import UserError
from beit_jax.models import vit
from beit_jax.tasks import create_task
from beit_jax.training.interpolate_positions import bicubic, interpolate_positions

TASKS = ("classify", "pretrain", "pretrain_pixels", "pretrain_features", "segment", "vqkd")


def draw(height, width, count=2):
    return np.random.default_rng(height + width).standard_normal((count, height, width, 3)).astype(np.float32)


def made(task, **model):
    """A model and random parameters, as `from_pretrained` gives them."""
    config = tiny(task)
    config.model.update(model)
    task = create_task(config)
    return task.model, random_parameters(jax.eval_shape(task.init, jax.random.key(0)))


def outputs(model, params, images):
    """float32 [l, b, n+1, d], by the encoder itself."""
    encoder = model.bind({"params": params}).encoder
    return np.asarray(encoder.unbind()[0].apply({"params": params["encoder"]}, images, all_layers=True))


@pytest.mark.parametrize("task", [*TASKS, "v2"])
def test_features_are_those_of_the_blocks(task):
    extra = dict(early_layer=1, head_layers=1) if task == "v2" else {}
    model, params = made("pretrain" if task == "v2" else task, **extra)
    images = draw(16, 16)
    expected = outputs(model, params, images).swapaxes(0, 1)
    mean, cls = expected[:, :, 1:].mean(axis=2), expected[:, :, 0]

    def check(found, expected):
        assert found.dtype == jnp.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-5)

    check(beit_jax.features(model, params, images), mean)
    check(beit_jax.features(model, params, images, layers=1, kind="cls"), cls[:, 0])
    if task == "classify":
        check(beit_jax.features(model, params, images, layers=np.int64(2)), mean[:, 1])
        check(beit_jax.features(model, params, images, layers=[2, 1, 2], kind="cls"), cls[:, [1, 0, 1]])
        check(beit_jax.features(model, params, images, layers=(1,)), mean[:, :1])
        check(beit_jax.features(model, params, images, kind="cls_mean"), np.concatenate([cls, mean], axis=-1))
        check(
            beit_jax.features(model, params, images, layers=2, kind="patches"), expected[:, 1, 1:].reshape(2, 4, 4, -1)
        )
        encoder, own = beit_jax.encoder_of(model, params)
        check(beit_jax.features(encoder, own, images), mean)


def test_later_blocks_are_not_computed():
    model, params = made("classify")

    def program(layers):
        return str(jax.make_jaxpr(lambda x: beit_jax.features(model, params, x, layers=layers))(draw(16, 16)))

    assert "length=1" in program(1) and "length=2" not in program(1)
    assert "length=2" in program((1, 2))


def test_each_case_is_compiled_once():
    images, size = draw(16, 16), encoder_features.compute._cache_size
    first, before = made("pretrain", layer_scale=0.3), size()
    for _ in range(2):
        model, params = made("pretrain", layer_scale=0.3)  # equal, not the same
        beit_jax.features(model, params, images, layers=1)
        beit_jax.features(model, params, images + 1, layers=(1, 2))
    assert size() == before + 2
    extract = beit_jax.feature_extractor(*first, (16, 16), layers=1)
    assert extract(images).shape == (2, 32) and size() <= before + 3


def test_other_sizes_have_interpolated_positions(tmp_path):
    """Of a square as `from_pretrained` makes them; a table of a rectangle may have as many rows as that of a square."""
    saved = save(tmp_path, "classify")
    model, params, _ = beit_jax.from_pretrained(saved)
    larger = beit_jax.from_pretrained(saved, image_size=24)
    images = draw(24, 24)
    expected = beit_jax.features(larger.model, larger.params, images)
    np.testing.assert_allclose(beit_jax.features(model, params, images), expected, atol=1e-6)

    model, params = made("classify", image_size=32)
    wide = draw(20, 52)  # 5 x 13 patches: 9 * 25 rows, as 15 * 15 of 8 x 8
    own = params["encoder"]
    target = jax.eval_shape(model.encoder.init, jax.random.key(0), wide)["params"]
    table = "relative_position"
    assert target["blocks"]["attn"][table]["table"].shape == own["blocks"]["attn"][table]["table"].shape
    resized = interpolate_positions({"encoder": own}, {"encoder": target}, grid=(5, 13))
    expected = outputs(model, resized, wide)[1, :, 1:].reshape(2, 5, 13, -1)
    found = beit_jax.features(model, params, wide, layers=2, kind="patches")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    extract = beit_jax.feature_extractor(model, params, (20, 52), layers=2, kind="patches")
    np.testing.assert_array_equal(extract(wide), found)
    with pytest.raises(UserError, match=r"found images of shape \(2, 52, 20, 3\); expected \[b, 20, 52, 3\]"):
        extract(draw(52, 20))


@pytest.mark.parametrize(
    ("task", "positions", "size"),
    [("classify", "per_block", (8, 56)), ("classify", "none", (8, 32)), ("vqkd", "none", (16, 36))],
)
def test_a_rectangle_at_its_own_size_keeps_its_positions(task, positions, size):
    """Also where a square has as many: 2x8 and 4x9 patches, and the table of 2x14."""
    fields = {} if task == "vqkd" else dict(relative_position=positions, absolute_positions=positions == "none")
    model, params = made(task, image_size=size, **fields)
    expected = outputs(model, params, draw(*size))[1, :, 1:].mean(axis=1)
    np.testing.assert_allclose(beit_jax.features(model, params, draw(*size), layers=2), expected, atol=1e-5)


def test_a_rectangle_turned_has_turned_positions():
    model, params = made("classify", image_size=(16, 32), relative_position="none", absolute_positions=True)
    _, turned = encoder_features.at_size(*beit_jax.encoder_of(model, params), (32, 16))
    own, found = (np.asarray(tree["pos_embed"])[0, 1:] for tree in (params["encoder"], turned))
    expected = np.einsum("yi,xj,ijc->yxc", bicubic(4, 8), bicubic(8, 4), own.reshape(4, 8, -1))
    np.testing.assert_allclose(found.reshape(8, 4, -1), expected, atol=1e-6)


def test_mistakes_are_one_line():
    model, params = made("classify")
    dvae, its_params = made("tokenizer")
    probe, heads = made("probe")
    images = draw(16, 16)
    for arguments, options, words in (
        ((model, params, images), dict(layers=3), "there is no layer 3: the encoder has the layers 1 to 2"),
        ((model, params, images), dict(layers=[1, 0]), "there is no layer 0"),
        ((model, params, images), dict(layers=()), "names no layer"),
        ((model, params, images), dict(layers="12"), "expected whole numbers"),
        ((model, params, images), dict(layers=1.0), "expected whole numbers"),
        ((model, params, images), dict(kind="max"), "kind='max'; expected one of mean, cls"),
        ((model, params, draw(16, 18)), {}, "found images of 16x18 pixels, expected multiples of the patch size 4"),
        ((model, params, images[0]), {}, r"expected [b, h, w, 3]"),
        ((model, params, images.astype(np.uint8)), {}, "found uint8 images; expected normalized ones"),
        ((dvae, its_params, images), {}, "without a vision transformer"),
        ((probe, heads, images), {}, "has a frozen encoder"),
        ((nn.Dense(3), {}, images), {}, "without a vision transformer"),
    ):
        with pytest.raises(UserError) as error:
            beit_jax.features(*arguments, **options)
        assert words in str(error.value) and "\n" not in str(error.value), words


def test_the_name_is_the_function_in_any_order_of_imports():
    code = (
        "import beit_jax.encoder_features, beit_jax.data.features, beit_jax.evals.features\n"
        "from beit_jax import features\nimport beit_jax.feature_files, beit_jax\n"
        "assert callable(features) and features is beit_jax.features\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert isinstance(vit.Encoder, type) and set(beit_jax.__all__) >= {"features", "feature_extractor", "encoder_of"}
