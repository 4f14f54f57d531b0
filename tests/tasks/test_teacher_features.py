"""Teachers with random weights: shapes, pixels, frozenness, sharding and arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beit_references import random_parameters

from beit_jax.config import teacher as keys
from beit_jax.errors import UserError
from beit_jax.models import clip_vision
from beit_jax.models.teacher import features_on_grid, resized
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks.teachers import create_teacher
from beit_jax.training import sharding

TINY = dict(variant="32x2x4/8", image_size=32)
CASES = {
    "clip": dict(kind="clip", projection=24, **TINY),
    "clip_unprojected": dict(kind="clip", projection=0, gelu="exact", **TINY),
    "dino": dict(kind="dino", **TINY),
    "last": dict(kind="encoder", relative_position="shared", layer_scale=0.1, **TINY),
    "first": dict(kind="encoder", relative_position="per_block", layer_scale=0.1, layer=1, **TINY),
}


def made(case, **more):
    """A teacher, and parameters of which none is at its initial value."""
    section = keys.section(**CASES[case] | more)
    keys.check(section)
    teacher = create_teacher(section)
    return teacher, random_parameters(jax.eval_shape(teacher.init, jax.random.key(0)))


def pixels(side=32, count=2):
    return jnp.asarray(np.random.default_rng(0).random((count, side, side, 3), dtype=np.float32))


def run(teacher, params, images):
    return np.asarray(jax.jit(teacher.features)(params, images))


@pytest.mark.parametrize("case", CASES)
def test_features(case):
    teacher, params = made(case)
    features = run(teacher, params, pixels())
    assert features.shape == (2, 16, teacher.width) and features.dtype == np.float32 and teacher.grid == (4, 4)
    assert teacher.width == (24 if case == "clip" else 32) and np.std(features) > 0.1


def test_a_teacher_is_frozen():
    teacher, params = made("clip")

    def loss(params, images):
        return jnp.sum(teacher.features(params, images) ** 2)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, pixels())
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_random_parameters_and_half_precision():
    teacher, _ = made("clip")
    params = run_once(teacher.init, jax.random.key(1))
    features = run(teacher, params, pixels())
    half = run(create_teacher(teacher.section, jnp.bfloat16), params, pixels())
    assert half.dtype == np.float32 and np.std(features) > 0.1
    assert 0 < np.abs(half - features).max() < 0.1 * np.std(features)


def test_pixels_are_normalized_by_its_own_statistics():
    """A teacher with the statistics 0 and 1 sees the same if the pixels are normalized before."""
    for case, mean, std in [
        ("clip", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ("dino", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]:
        teacher, params = made(case)
        plain, _ = made(case, statistics="(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)")
        normalized = (np.asarray(pixels()) - np.float32(mean)) / np.float32(std)
        found = run(plain, params, normalized)
        np.testing.assert_allclose(run(teacher, params, pixels()), found, atol=1e-5)
        assert np.abs(found - run(plain, params, pixels())).max() > 0.1


def test_patches_are_row_major_without_the_class_token():
    """Without blocks that mix them, another patch changes only its own feature."""
    teacher, params = made("dino")
    for name in ("attn/proj/kernel", "mlp/fc2/kernel"):
        part, layer, kind = name.split("/")
        params["encoder"]["blocks"][part][layer][kind] *= 0
    changed = pixels().at[:, 8:16, 24:].add(0.5)  # the second row, the fourth column
    difference = run(teacher, params, changed) - run(teacher, params, pixels())
    assert [*np.flatnonzero(np.abs(difference).max(axis=(0, 2)))] == [7]


def test_images_of_another_size_are_resized():
    teacher, params = made("clip")
    smooth = jnp.broadcast_to(jnp.linspace(0.1, 0.9, 48)[None, :, None, None], (2, 48, 48, 3))
    small = resized(smooth, 32)
    expected = 0.1 + 0.8 * ((np.arange(32) + 0.5) * 1.5 - 0.5) / 47  # a ramp stays one
    np.testing.assert_allclose(small[0, 4:-4, 7, 1], expected[4:-4], atol=5e-4)
    np.testing.assert_array_equal(run(teacher, params, smooth), run(teacher, params, small))
    edges = jnp.zeros((1, 16, 16, 3)).at[:, :, 8:].set(1.0)
    larger = resized(edges, 32)
    assert larger.shape == (1, 32, 32, 3) and larger.min() == 0 and larger.max() == 1  # the overshoot is clipped
    fine = jnp.zeros((1, 64, 64, 3)).at[:, :, ::2].set(1.0)
    np.testing.assert_allclose(resized(fine, 16)[:, :, 2:-2], 0.5, atol=0.02)  # stripes become grey


def test_features_on_another_grid():
    ramp = (np.arange(4)[:, None] + 10.0 * np.arange(4)[None]).reshape(1, 16, 1).astype(np.float32)
    larger = np.asarray(features_on_grid(ramp, (4, 4), (8, 8))).reshape(8, 8)
    centres = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(larger, centres[:, None] + 10 * centres[None], atol=1e-5)
    smaller = np.asarray(features_on_grid(ramp, (4, 4), (2, 2))).reshape(2, 2)
    np.testing.assert_allclose(smaller, [[5.5, 25.5], [7.5, 27.5]], atol=1e-5)
    assert features_on_grid(ramp, (4, 4), (4, 4)) is ramp
    with pytest.raises(ValueError, match="features of 15 patches, expected 4 x 4"):
        features_on_grid(ramp[:, :15], (4, 4), (4, 4))


def test_an_earlier_layer_is_that_of_the_whole_encoder():
    teacher, params = made("first")
    run_all = jax.jit(lambda params, images: teacher.network.apply({"params": params}, images, all_layers=True))
    outputs = run_all(params["encoder"], (pixels() - 0.5) / 0.5)
    np.testing.assert_allclose(run(teacher, params, pixels()), outputs[0, :, 1:], atol=1e-5)
    assert "norm" not in params["encoder"] and "norm" in made("last")[1]["encoder"]


def test_quick_gelu_is_another_than_the_exact_one():
    x = jnp.asarray([-2.0, 0.0, 1.0])
    np.testing.assert_allclose(clip_vision.quick_gelu(x), [-0.06434, 0.0, 0.84580], atol=1e-5)
    teacher, params = made("clip")
    other, _ = made("clip", gelu="exact")
    assert np.abs(run(teacher, params, pixels()) - run(other, params, pixels())).max() > 1e-3


@pytest.mark.parametrize("case", ["clip", "dino"])
def test_eight_devices_compute_what_one_computes(case):
    teacher, params = made(case)
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
    expected = run(teacher, params, pixels(40, 8))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.shardings(mesh, params))
        images = jax.device_put(pixels(40, 8), sharding.batch_sharding(mesh))
        found = jax.jit(teacher.features)(placed, images)
    kernel = placed["encoder"]["blocks"]["attn"]["qkv"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 16, 48) and len(found.sharding.device_set) == 8
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_flops_of_clip():
    """B/16 at 224 pixels: 197 tokens, of which 196 are patches."""
    teacher = create_teacher(keys.section())
    assert (teacher.width, teacher.grid, teacher.section.variant) == (512, (14, 14), "B/16")
    embedding, projection = 2 * 196 * 768 * 768, 2 * 196 * 768 * 512
    projections = 2 * 197 * 768 * (3 * 768 + 768 + 8 * 768)  # queries, keys and values; the output; the MLP
    attention = 2 * 2 * 197 * 197 * 768
    assert teacher.flops() == embedding + 12 * (projections + attention) + projection == 35_280_261_120
    first, last = (made(case)[0] for case in ("first", "last"))
    assert last.flops() - first.flops() == 2 * (12 * 17 * 32**2 + 2 * 17**2 * 32)  # the second block


@pytest.mark.parametrize(("kind", "published"), [("clip", 86_192_640), ("dino", 85_798_656)])
def test_parameters_of_the_published_networks(kind, published):
    """Of B/16; ours has no biases of keys."""
    params = jax.eval_shape(create_teacher(keys.section(kind=kind)).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == published - 12 * 768


def test_mistakes_in_the_section():
    with pytest.raises(UserError, match=r"teacher.gelus is unknown; expected one of kind, .*; did you mean gelu\?"):
        keys.section(gelus="quick")
    with pytest.raises(UserError, match=r"teacher.gelu='new'; expected one of auto, quick, exact"):
        keys.section(gelu="new")
    for settings, message in [
        (dict(image_size=30), r"teacher.image_size=30 is not divisible by the patch size 16 of B/16"),
        (dict(layer=1), "teacher.layer=1 is for the kind encoder"),
        (dict(kind="encoder", layer=13), "teacher.layer=13; expected at most 12"),
    ]:
        with pytest.raises(UserError, match=message):
            keys.check(keys.section(**settings))
