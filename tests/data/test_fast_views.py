"""Partial decoding: the crops of whole images, the same images unreadable, and batches of levels."""

import image_zoo
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from beit_jax.data import pipeline
from beit_jax.data.ops import crop, crop_box
from beit_jax.data.ops import image as image_ops
from beit_jax.errors import UserError

OPS = "decode_view(12)|flip_lr|blockwise_mask(5, 2, 4)|keep('image', 'mask')|keep_levels"
BAD, ODD = image_zoo.bad(), image_zoo.odd()


@pytest.fixture(scope="module")
def views():
    """Runs the op on a file, traced once."""
    op = tf.function(crop.decode_view(24), autograph=False)
    return lambda content, seed: {
        key: value.numpy() for key, value in op({"image": tf.constant(content)}, tf.constant(seed, tf.int64)).items()
    }


@pytest.mark.parametrize("settings", [{}, {"subsampling": 0}, {"progressive": True}, {"mode": "CMYK"}, {"mode": "L"}])
def test_the_view_is_that_of_the_whole_image(views, picture, settings):
    content = image_zoo.encode(picture(1, 97, 131), "JPEG", quality=90, **settings)
    whole = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    for index in range(4):
        found = views(content, [9, index])
        seed = tf.constant([9, index], tf.int64)
        top, left, height, width = crop_box.random_box(seed, whole, (0.08, 1.0)).numpy().tolist()
        cropped = Image.fromarray(whole[top : top + height, left : left + width])
        expected = np.asarray(cropped.resize((24, 24), Image.BICUBIC), int)
        assert np.abs(found["image"] - expected).max() <= 2


@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_read(views, name):
    content, pixels = ODD[name]
    found = views(content, [3, 0])
    assert found["_fault"] == b""
    box = crop_box.random_box(tf.constant([3, 0], tf.int64), pixels, (0.08, 1.0))
    cropped = Image.fromarray(np.ascontiguousarray(crop_box.crop(tf.constant(pixels), box).numpy()))
    expected = np.asarray(cropped.resize((24, 24), Image.BICUBIC), int)
    assert np.abs(found["image"] - expected).max() <= 3


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_marked_whatever_the_box(views, name):
    content, reason = BAD[name]
    for index in range(3):
        found = views(content, [0, index])
        assert reason in found["_fault"].decode() and not found["image"].any()


def test_flip_mirrors_both_views(both_ways, picture):
    features = {"image": picture(0, 8, 8), "tokenizer_image": picture(1, 4, 4)}
    found = both_ways(image_ops.flip_lr(1.0), features, [0, 0])
    for name, image in features.items():
        np.testing.assert_array_equal(found[name], image[:, ::-1])


def test_batches_are_levels_and_go_on_where_they_stopped(data_config, class_folder):
    config = data_config(source=f"folder:{class_folder}", ops=OPS)
    stream = pipeline.make_train(config, seed=3, batch_size=12)
    batches = [next(stream) for _ in range(7)]
    assert {key: (value.shape, value.dtype) for key, value in batches[0].items()} == {
        "image": ((12, 12, 12, 3), np.uint8),
        "mask": ((12, 4, 4), np.bool_),
    }
    assert len({batch["image"].tobytes() for batch in batches}) == 7
    resumed = pipeline.make_train(config, seed=3, batch_size=12, start_step=4)  # of five an epoch
    for expected in batches[4:]:
        found = next(resumed)
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value)


def test_bad_images_are_replaced_and_counted(data_config, tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    whole = image_zoo.encode(Image.fromarray(image_zoo.picture(0)).resize((320, 240)), "JPEG")
    for index in range(12):
        content = whole[: len(whole) * 9 // 10] if index == 5 else image_zoo.encode(image_zoo.picture(index), "JPEG")
        (root / f"{index}.jpg").write_bytes(content)
    log = tmp_path / "log.txt"
    config = data_config(source=f"folder:{root}", ops=OPS, max_bad_fraction=0.5)
    stream = pipeline.make_train(config, seed=0, batch_size=12, log=log)
    for _ in range(3):
        images = next(stream)["image"]
        assert len({image.tobytes() for image in images}) == 11 and images.any((1, 2, 3)).all()
    assert [line.split("\t")[0].rsplit("/", 1)[1] for line in log.read_text().splitlines()] == ["5.jpg"]
    assert stream._unreadable.count == 3  # once an epoch


def test_mistakes():
    op = crop.decode_view(8)
    with pytest.raises(UserError, match="use it instead of decode"):
        op({"image": tf.zeros([4, 4, 3], tf.uint8)}, tf.constant([0, 0], tf.int64))
    with pytest.raises(UserError, match="decode_view: found the size 0"):
        crop.decode_view(0)
