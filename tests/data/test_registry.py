import numpy as np
import pytest
import tensorflow as tf

from beit_jax.data import registry
from beit_jax.errors import UserError


def test_spec_becomes_two_halves(picture):
    program = registry.build("flip_lr | two_views(12, 6) | normalize(0.5, 0.5) | map_pixels | random_mask(3, (2, 4))")
    example = program.example({"image": tf.constant(picture(0, 20, 30))}, tf.constant([1, 2], tf.int64))
    assert {key: (value.shape, value.dtype) for key, value in example.items()} == {
        "image": ((12, 12, 3), tf.uint8),
        "tokenizer_image": ((6, 6, 3), tf.uint8),
    }
    batch = program.batch({key: value[None] for key, value in example.items()}, tf.constant([[1, 2]], tf.int64))
    assert batch["image"].dtype == tf.float32
    assert batch["mask"].shape == (1, 2, 4)
    assert int(tf.reduce_sum(tf.cast(batch["mask"], tf.int32))) == 3


def test_pixel_arithmetic_runs_where_a_later_op_needs_it(picture):
    program = registry.build("resize(4)|map_pixels('image')|flip_lr(1.0)")
    example = program.example({"image": tf.constant(picture(0, 5, 5))}, tf.constant([0, 0], tf.int64))
    assert example["image"].dtype == tf.float32


def test_every_op_draws_for_itself(picture):
    # Equal ops in two places flip differently for some seed in 32, and equal seeds give equal results.
    program = registry.build("flip_lr|flip_lr")
    image = picture(0, 4, 5)
    results = [
        program.example({"image": tf.constant(image)}, tf.constant([3, index], tf.int64))["image"].numpy()
        for index in range(32)
    ]
    unflipped = sum(np.array_equal(result, image) for result in results)
    assert 0 < unflipped < 32


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("decode|flip_rl", "there is no op named flip_rl; did you mean flip_lr"),
        ("decode|xyzzy", "there is no op named xyzzy; the ops are"),
        ("decode|resize()", r"found resize\(\), expected resize\(size"),
        ("decode|resize(8, size=9)", "expected resize"),
        ("decode|resize('8')", "expected a whole number of pixels"),
        ("decode|resize(size)", "not literals"),
        ("decode|resize(__import__('os'))", "not literals"),
        ("decode|__import__('os')", "there is no op named __import__"),
        ("decode|resize(8).x", "is no op"),
        ("decode|(lambda: 0)()", "is no op"),
        ("decode|", "cannot read the ops"),
        ("", "cannot read the ops"),
        ("decode|blockwise_mask(75, 16, 14)|flip_lr", "move blockwise_mask behind flip_lr"),
        ("decode|blockwise_mask('75')", r"found blockwise_mask\('75'\)"),
    ],
)
def test_mistakes_are_one_line(spec, message):
    with pytest.raises(UserError, match=message) as error:
        registry.build(spec)
    assert "\n" not in str(error.value)
