import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from beit_jax.data.decoding.assertions import assertion_message
from beit_jax.data.features import ID
from beit_jax.data.ops import image as image_ops
from beit_jax.data.ops import segmentation
from beit_jax.data.ops.resample import resize_bilinear, resize_pair
from beit_jax.errors import UserError

SEED = [7, 11]


def encode(pixels, file_format="PNG", mode=None):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, file_format)
    return buffer.getvalue()


def pair_of_positions(height, width):
    """A pair of at most 16 x 15 whose pixels tell where they are: (16 row, 16 column, 0), the label 16 row + column."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([16 * rows, 16 * columns, 0 * rows], axis=-1).astype(np.uint8)
    return {"image": image, "label_map": (16 * rows + columns).astype(np.uint8)[..., None]}


def positions(found):
    """Rows and columns of every pixel `[2, h, w]` as the image and as the label map show them."""
    label_map = found["label_map"][..., 0].astype(int)
    return np.moveaxis(found["image"][..., :2].astype(float) / 16, -1, 0), np.stack(np.divmod(label_map, 16))


def failure(op, features):
    """The message of an op that fails in a graph."""
    features = {key: tf.constant(value) for key, value in features.items()}
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        tf.data.Dataset.from_tensors(features).map(
            lambda row: op(row, tf.constant(SEED, tf.int64))
        ).get_single_element()
    return assertion_message(error.value.message)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_decode_pairs(both_ways, picture, mode):
    labels = np.random.default_rng(0).integers(0, 151, (20, 30), dtype=np.uint8)
    encoded = {"image": encode(picture(0, 20, 30), mode=mode), "label_map": encode(labels)}
    found = both_ways(image_ops.decode(), encoded, SEED)
    np.testing.assert_array_equal(found["label_map"], labels[..., None])
    np.testing.assert_array_equal(found["image"], Image.open(io.BytesIO(encoded["image"])).convert("RGB"))
    assert not found["_fault"] and set(found) == {"image", "label_map", "_fault"}


def test_decode_refuses_another_size_and_colours(picture):
    pair = {"image": encode(picture(0, 20, 30)), "label_map": encode(np.ones((30, 20), np.uint8)), ID: "a/b c.jpg"}
    message = (
        "the label map of a/b c.jpg has 30 x 20 pixels, its image 20 x 30; expected the same: repair or remove the"
    )
    assert failure(image_ops.decode(), pair) == message + " pair"
    pair["label_map"] = encode(np.tile(np.array([200, 10, 30], np.uint8), (20, 30, 1)))
    assert failure(image_ops.decode(), pair).startswith("the label map of a/b c.jpg is a PNG file of colours")


def test_reduce_zero_label(both_ways):
    labels = np.array([0, 1, 2, 150, 151, 254, 255], np.uint8)[None, :, None]
    found = both_ways(segmentation.reduce_zero_label(), {"image": 0, "label_map": labels}, SEED)["label_map"]
    assert found[0, :, 0].tolist() == [255, 0, 1, 149, 150, 253, 255]


def test_map_labels(both_ways):
    labels = np.array([0, 1, 7, 254, 255], np.uint8)[None, :, None]
    for arguments, expected in (
        (({255: 1},), [0, 1, 7, 254, 1]),
        (({0: 1, 1: 0},), [1, 0, 7, 254, 255]),
        (({0: 0, 7: 1}, 255), [0, 255, 1, 255, 255]),
    ):
        op = segmentation.map_labels(*arguments)
        found = both_ways(op, {"image": 0, "label_map": labels}, SEED)["label_map"]
        assert found.dtype == np.uint8 and found[0, :, 0].tolist() == expected


@pytest.mark.parametrize("arguments", [(255,), ({},), ({0: 256},), ({-1: 0},), ({0: 1.0},), ({0: 1}, 300)])
def test_map_labels_of_what_are_no_labels(arguments):
    with pytest.raises(UserError, match=r"map_labels: found .*; expected labels 0 to 255, as map_labels\({255: 1}\)"):
        segmentation.map_labels(*arguments)


@pytest.fixture(scope="module")
def random_ratio_resize(traced):
    return traced(segmentation.random_ratio_resize(20, 50, 0.5, 2.0))


def test_random_ratio_resize_both_ways(both_ways):
    both_ways(segmentation.random_ratio_resize(20, 50, 0.5, 2.0), pair_of_positions(9, 15), SEED)


@pytest.mark.parametrize("shape", [(9, 15), (16, 10), (12, 12)])
@pytest.mark.parametrize("index", range(6))
def test_random_ratio_resize(random_ratio_resize, shape, index):
    seed = [3, index]
    found = random_ratio_resize(pair_of_positions(*shape), seed)
    # mmcv's rule: the scale is cut to whole pixels, the sides are rounded.
    ratio = 0.5 + 1.5 * float(tf.random.stateless_uniform([], tf.constant(seed, tf.int64), dtype=tf.float64))
    factor = min(int(50 * ratio) / max(shape), int(20 * ratio) / min(shape))
    expected = tuple(int(side * factor + 0.5) for side in shape)
    assert found["image"].shape == (*expected, 3) and found["label_map"].shape == (*expected, 1)
    by_image, by_labels = positions(found)
    old = [(np.arange(new) + 0.5) * side / new - 0.5 for new, side in zip(expected, shape, strict=True)]
    old = np.stack(np.meshgrid(*(np.clip(o, 0, side - 1) for o, side in zip(old, shape, strict=True)), indexing="ij"))
    assert np.abs(by_image - old).max() <= 0.5 / 16 + 1e-6  # bilinear keeps a ramp
    scales = np.array([side / new for new, side in zip(expected, shape, strict=True)])[:, None, None]
    below = old + 0.5 - 0.5 * scales - by_labels  # from the label's pixel to the upper left corner of the new one
    inner = (slice(None), *(slice(1, -1),) * 2)  # `old` is clipped at the borders
    assert below[inner].min() >= -1e-6 and below[inner].max() < 1


def test_ratios_cover_their_range():
    sides = []
    resize = tf.function(segmentation.random_ratio_resize(100, 100, 0.5, 2.0))
    for index in range(80):
        pair = {"image": tf.zeros([4, 4, 3], tf.uint8), "label_map": tf.zeros([4, 4, 1], tf.uint8)}
        sides.append(int(tf.shape(resize(pair, tf.constant([0, index], tf.int64))["image"])[0]))
    assert 50 <= min(sides) < 60 and 190 < max(sides) <= 200
    assert 105 < np.mean(sides) < 145


@pytest.mark.parametrize(
    ("old", "new", "expected"),  # of cv2.resize(np.arange(old), ..., interpolation=cv2.INTER_NEAREST), 4.5.5 and 5.0.0
    [
        (12, 5, [0, 2, 4, 7, 9]),
        (3, 7, [0, 0, 0, 1, 1, 2, 2]),
        # Rounding: 9 * 14 / 18 is 7, and 17 * 6 / 34 is 3.
        (14, 18, [0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 10, 10, 11, 12, 13]),
        (6, 34, [0] * 6 + [1] * 6 + [2] * 6 + [3] * 5 + [4] * 6 + [5] * 5),
    ],
)
def test_labels_are_resized_by_opencvs_nearest(old, new, expected):
    labels = np.arange(old, dtype=np.uint8)
    image = tf.zeros([old, 1, 3], tf.uint8)
    assert resize_pair(image, tf.constant(labels[:, None, None]), new, 1)[1][:, 0, 0].numpy().tolist() == expected
    image = tf.transpose(image, [1, 0, 2])
    assert resize_pair(image, tf.constant(labels[None, :, None]), 1, new)[1][0, :, 0].numpy().tolist() == expected


def test_bilinear_is_opencvs():
    # cv2.resize(..., INTER_LINEAR) of OpenCV 5.0: reductions leave pixels out, they do not average.
    small = np.array([[0, 40], [90, 255]], np.uint8)[..., None].repeat(3, 2)
    found = resize_bilinear(tf.constant(small), 3, 5).numpy()[..., 0].astype(int)
    assert np.abs(found - [[0, 4, 20, 36, 40], [45, 55, 96, 137, 148], [90, 106, 172, 238, 255]]).max() <= 1
    row = 40 * np.arange(6, dtype=np.uint8)[None, :, None].repeat(3, 2)
    assert resize_bilinear(tf.constant(row), 1, 4).numpy()[0, :, 0].tolist() == [10, 70, 130, 190]
    stripes = np.tile(np.array([255, 0, 255], np.uint8), 5)[None, :, None].repeat(3, 2)
    assert not resize_bilinear(tf.constant(stripes), 1, 5).numpy().any()


@pytest.mark.parametrize(
    ("shape", "expected"), [((50, 100), (20, 40)), ((10, 5), (40, 20)), ((10, 100), (5, 50)), ((1, 1000), (1, 50))]
)
def test_resize_within(both_ways, shape, expected):
    pair = {"image": np.zeros((*shape, 3), np.uint8), "label_map": np.zeros((*shape, 1), np.uint8)}
    found = both_ways(segmentation.resize_within(20, 50), pair, SEED)
    assert found["image"].shape == (*expected, 3)
    assert found["label_map"].shape == (*shape, 1)


def expected_corner(labels, size, ratio, seed):
    """mmsegmentation's rule in NumPy, for the op's draws; and how many attempts it took."""
    draws = tf.random.stateless_uniform([11, 2], tf.constant(seed, tf.int64), dtype=tf.float64).numpy()
    room = np.maximum(np.array(labels.shape) - size, 0)
    corners = np.floor(draws * (room + 1)).astype(int)
    for attempt, (top, left) in enumerate(corners[:10]):
        classes, counts = np.unique(labels[top : top + size, left : left + size], return_counts=True)
        counts = counts[classes != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < ratio:
            return top, left, attempt
    return *corners[10], 10


def test_random_segment_crop_is_the_rule(both_ways, traced):
    # Mostly one class and nothing, with a few spots: many attempts fail.
    random = np.random.default_rng(0)
    labels = np.where(random.uniform(size=(40, 30)) < 0.5, 255, 3).astype(np.uint8)
    labels[5:15, 20:28] = random.integers(0, 3, (10, 8))
    image = random.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    op, pair = segmentation.random_segment_crop(9, 0.75), {"image": image, "label_map": labels[..., None]}
    crop, attempts = traced(op), []
    both_ways(op, pair, [1, 0])
    for index in range(40):
        top, left, attempt = expected_corner(labels, 9, 0.75, [1, index])
        found = crop(pair, [1, index])
        np.testing.assert_array_equal(found["image"], image[top : top + 9, left : left + 9])
        np.testing.assert_array_equal(found["label_map"][..., 0], labels[top : top + 9, left : left + 9])
        attempts.append(attempt)
    assert {0, 10} < set(attempts)


def test_random_segment_crop_without_a_ratio_takes_the_first(both_ways):
    pair = pair_of_positions(15, 15)
    found = both_ways(segmentation.random_segment_crop(4, 1.0), pair, SEED)
    draws = tf.random.stateless_uniform([11, 2], tf.constant(SEED, tf.int64), dtype=tf.float64).numpy()
    top, left = np.floor(draws[0] * 12).astype(int)
    assert found["label_map"][0, 0, 0] == 16 * top + left


def test_crops_reach_every_corner():
    crop = tf.function(segmentation.random_segment_crop(3))
    pair = {key: tf.constant(value) for key, value in pair_of_positions(5, 4).items()}
    found = {
        int(crop(pair, tf.constant([0, index], tf.int64))["label_map"][0, 0, 0]) for index in range(60)
    }  # all pixels are of different classes, so that the first attempt counts
    assert found == {0, 1, 16, 17, 32, 33}


@pytest.mark.parametrize(("shape", "expected"), [((5, 15), (5, 8)), ((15, 6), (8, 6)), ((3, 3), (3, 3))])
def test_images_smaller_than_the_crop_stay_as_they_are(both_ways, shape, expected):
    found = both_ways(segmentation.random_segment_crop(8), pair_of_positions(*shape), SEED)
    assert found["image"].shape == (*expected, 3)
    np.testing.assert_array_equal(*positions(found))


@pytest.mark.parametrize(
    ("labels", "ratio", "expected"),
    [
        ([0, 0, 0, 1], 0.75, False),
        ([0, 0, 0, 1], 0.76, True),
        ([0, 1, 2, 255, 255, 255], 0.5, True),
        ([0, 255], 0.75, False),
        ([255, 255], 0.75, False),
        ([254, 0], 0.75, True),
    ],
)
def test_is_mixed(labels, ratio, expected):
    assert bool(segmentation.is_mixed(tf.constant(labels, tf.uint8), ratio)) == expected


def test_both_are_mirrored_together(both_ways, traced):
    pair = pair_of_positions(6, 9)
    found = both_ways(image_ops.flip_lr(1.0), pair, SEED)
    np.testing.assert_array_equal(*positions(found))
    np.testing.assert_array_equal(found["label_map"], pair["label_map"][:, ::-1])
    flip, flipped = traced(image_ops.flip_lr()), 0
    for index in range(40):
        found = flip(pair, [0, index])
        np.testing.assert_array_equal(*positions(found))
        np.testing.assert_array_equal(found["image"], flip({"image": pair["image"]}, [0, index])["image"])
        flipped += int(found["label_map"][0, 0, 0] != 0)
    assert 10 <= flipped <= 30


def normalized(height, width):
    pair = pair_of_positions(height, width)
    return pair | {"image": pair["image"].astype(np.float32) + 1}


def levels():
    return {key: tf.constant(value) for key, value in pair_of_positions(4, 4).items()}


def test_pad_to(both_ways):
    pair = normalized(5, 7)
    found = both_ways(segmentation.pad_to(8, 7), pair, SEED)
    np.testing.assert_array_equal(found["image"], np.pad(pair["image"], ((0, 3), (0, 0), (0, 0))))
    expected = np.pad(pair["label_map"], ((0, 3), (0, 0), (0, 0)), constant_values=255)
    np.testing.assert_array_equal(found["label_map"], expected)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (7, 5), (6, 6)])
def test_pad_for_evaluation(both_ways, height, width):
    pair = normalized(height, width) | {"label_map": np.arange(30, dtype=np.uint8).reshape(10, 3, 1)}
    found = both_ways(segmentation.pad_for_evaluation(6, 8, 12), pair, SEED)
    assert (found["size"].tolist(), found["label_size"].tolist()) == ([height, width], [10, 3])
    assert found["size"].dtype == found["label_size"].dtype == np.int32
    lying = pair["image"].swapaxes(0, 1) if height > width else pair["image"]
    expected = np.pad(lying, ((0, 6 - min(height, width)), (0, 8 - max(height, width)), (0, 0)))
    np.testing.assert_array_equal(found["image"], expected)
    expected = np.pad(pair["label_map"], ((0, 2), (0, 9), (0, 0)), constant_values=255)
    np.testing.assert_array_equal(found["label_map"], expected)


def test_what_is_too_large_is_named():
    pair = normalized(9, 12) | {ID: "x.jpg"}
    assert failure(segmentation.pad_to(9, 11), pair) == (
        "the image x.jpg has 9 x 12 pixels to pad, expected at most 9 x 11; crop it before, or pad to more"
    )
    assert failure(segmentation.pad_for_evaluation(9, 11, 12), pair) == (
        "the image x.jpg has 9 x 12 pixels to pad, expected at most 9 x 11; reduce it before, or raise "
        "inference.long_side"
    )
    assert failure(segmentation.pad_for_evaluation(9, 12, 11), pair) == (
        "the label map of x.jpg has 9 x 12 pixels to pad, expected at most 11 x 11; raise inference.label_side"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: segmentation.random_ratio_resize(50, 20), "found 50 for the shorter and 20 for the longer side"),
        (lambda: segmentation.random_ratio_resize(20, 50, 2.0, 0.5), "ratios from 2.0 to 0.5"),
        (lambda: segmentation.random_segment_crop(0), "found the size 0"),
        (lambda: segmentation.random_segment_crop(8, 0), "found cat_max_ratio=0"),
        (lambda: segmentation.pad_to(8, 8)(levels(), None), "pad_to: expected normalized pixels"),
        (lambda: segmentation.pad_for_evaluation(8, 8, 8)(levels(), None), "put it after normalize"),
        (lambda: segmentation.pad_for_evaluation(9, 8, 8), "found 9 for the shorter and 8 for the longer side"),
        (lambda: segmentation.pad_to(8, -1), "found the size -1"),
        (lambda: segmentation.random_ratio_resize(8, 8)({"image": 0}, None), "there is no 'label_map'"),
        (lambda: segmentation.random_segment_crop(8)({"image": 0}, None), "there is no 'label_map'"),
        (lambda: segmentation.reduce_zero_label()({"image": 0}, None), "there is no 'label_map'; take a source"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(UserError, match=message):
        call()
