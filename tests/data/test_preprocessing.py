import numpy as np
import pytest
import tensorflow as tf

from beit_jax.data import preprocessing
from beit_jax.data.ops.registry import OPS
from beit_jax.errors import UserError


def test_spec_becomes_two_halves(picture):
    program = preprocessing.build_program(
        "flip_lr | two_views(12, 6) | normalize(0.5, 0.5) | map_pixels | random_mask(3, (2, 4))"
    )
    example = program.example({"image": tf.constant(picture(0, 20, 30))}, tf.constant([1, 2], tf.int64))
    assert {key: (value.shape, value.dtype) for key, value in example.items()} == {
        "image": ((12, 12, 3), tf.float32),
        "tokenizer_image": ((6, 6, 3), tf.float32),
    }
    batch = program.batch({key: value[None] for key, value in example.items()}, tf.constant([[1, 2]], tf.int64))
    assert batch["mask"].shape == (1, 2, 4)
    assert int(tf.reduce_sum(tf.cast(batch["mask"], tf.int32))) == 3


def test_pixel_arithmetic_runs_where_an_op_before_it_does(picture):
    features, seed = {"image": tf.constant(picture(0, 5, 5))}, tf.constant([0, 0], tf.int64)
    example = preprocessing.build_program("resize(4)|map_pixels('image')|flip_lr(1.0)").example(features, seed)
    assert example["image"].dtype == tf.float32
    example = preprocessing.build_program("resize(4)|random_mask(3, (2, 4))|normalize").example(features, seed)
    assert example["image"].dtype == tf.uint8


def test_every_op_draws_for_itself(picture):
    # Equal ops in two places flip differently for some seed in 32, and equal seeds give equal results.
    program = preprocessing.build_program("flip_lr|flip_lr")
    image = picture(0, 4, 5)
    results = [
        program.example({"image": tf.constant(image)}, tf.constant([3, index], tf.int64))["image"].numpy()
        for index in range(32)
    ]
    unflipped = sum(np.array_equal(result, image) for result in results)
    assert 0 < unflipped < 32


def test_a_view_that_is_not_wanted_is_not_made(picture):
    whole = preprocessing.build_program(
        "two_views(12, 6)|normalize|map_pixels|random_mask(3, (2, 4))|keep('image', 'mask')"
    )
    part, seeds = preprocessing.without_image(whole, "tokenizer_image"), tf.constant([[1, 2]], tf.int64)
    features = {"image": tf.constant(picture(0, 20, 30))}
    made = []
    for program in (whole, part):
        example = tf.function(program.example).get_concrete_function(features, seeds[0])
        made.append(program.batch({key: value[None] for key, value in example(features, seeds[0]).items()}, seeds))
        kept = tf.compat.v1.graph_util.extract_sub_graph(
            example.graph.as_graph_def(), [output.op.name for output in example.outputs]
        )
        made[-1]["nodes"] = len(kept.node)
    assert made[0].keys() == made[1].keys() == {"image", "mask", "nodes"}
    assert made[1]["nodes"] < made[0]["nodes"]
    for key in ("image", "mask"):
        np.testing.assert_array_equal(made[0][key], made[1][key])
    left = preprocessing.without_image(preprocessing.build_program("two_views(12, 6)|map_pixels"), "tokenizer_image")
    assert left.batch({"tokenizer_image": tf.zeros([1, 1, 1, 3])}, seeds) == {}


def test_what_pixels_depend_on():
    spec = "decode | two_views(12,6)|blockwise_mask(5, 2, 4)|keep('image')"
    assert preprocessing.pixel_ops(spec) == "decode|two_views(12, 6)|mask|keep('image')"
    assert preprocessing.pixel_ops(spec) == preprocessing.pixel_ops(
        spec.replace("blockwise_mask(5, 2, 4)", "random_mask(3)")
    )
    assert preprocessing.pixel_ops(spec) != preprocessing.pixel_ops(spec.replace("12", "13"))


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
        ("decode|blockwise_mask(75, 16, 14)|flip_lr", "move blockwise_mask after flip_lr"),
        ("decode|blockwise_mask('75')", r"found blockwise_mask\('75'\)"),
    ],
)
def test_mistakes_are_one_line(spec, message):
    with pytest.raises(UserError, match=message) as error:
        preprocessing.build_program(spec)
    assert "\n" not in str(error.value)


SPECS = {
    "decode": None,  # take bytes
    "decode_view": None,
    "keep": "keep('image')",
    "map_pixels": "map_pixels('image')",
    "two_views": "two_views(8, 8)",
    "two_views_center": "two_views_center(8, 8)",
    "color_jitter": "color_jitter(0.4)",
    "random_erasing": "resize(16)|normalize|random_erasing(1.0)",
    "randaugment": "resize(16)|randaugment",
    **{name: f"{name}(8)" for name in ("resize", "resize_small", "central_crop", "random_resized_crop")},
    "blockwise_mask": "blockwise_mask(6, 2, (4, 4))",
    "algorithm1_mask": "algorithm1_mask(0.4, 2, (4, 4))",
    "random_mask": "random_mask(6, (4, 4))",
    "map_labels": "map_labels({255: 1})",
    "random_ratio_resize": "random_ratio_resize(16, 64)",
    "random_segment_crop": "random_segment_crop(8, 1.0)",
    "resize_within": "resize_within(8, 32)",
    "pad_to": "normalize|pad_to(32, 32)",
    "pad_for_evaluation": "normalize|pad_for_evaluation(32, 32, 32)",
}


def test_what_draws_random_numbers_says_so(picture):
    preprocessing.random_ops("flip_lr")  # all ops are registered now
    for name, entry in OPS.items():
        spec = SPECS.get(name, name)
        if spec is None:
            assert entry.random == (name == "decode_view")
            continue
        program, results = preprocessing.build_program(spec), []
        for index in range(8):
            seed = tf.constant([5, index], tf.int64)
            image, classes = picture(0, 20, 30), np.arange(600, dtype=np.uint8).reshape(20, 30, 1)
            features = program.example({"image": tf.constant(image), "label_map": tf.constant(classes)}, seed)
            features = program.batch({key: value[None] for key, value in features.items()}, seed[None])
            results.append(tuple(value.numpy().tobytes() for _, value in sorted(features.items())))
        assert (len(set(results)) > 1) == entry.random, name
        assert (name in preprocessing.random_ops(spec)) == entry.random
