import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from beit_jax.data.ops.resample import check_method, resize
from beit_jax.errors import UserError

FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}


@pytest.mark.parametrize("method", FILTERS)
@pytest.mark.parametrize("size", [(24, 24), (7, 90), (200, 31), (1, 1)])
@pytest.mark.parametrize("smooth", [True, False])
def test_equals_pillow(picture, method, size, smooth):
    image = picture(0, 60, 47)
    if not smooth:  # the hardest edges there are, where Pillow's cut between its passes shows
        image = np.where(image > 128, 255, 0).astype(np.uint8)
    # Columns first as in the Pillow of 2021; newer versions begin with the cheaper pass.
    columns = Image.fromarray(image).resize((size[1], 60), FILTERS[method])
    expected = np.asarray(columns.resize(size[::-1], FILTERS[method]), int)
    for function in (resize, tf.function(resize)):
        found = function(tf.constant(image), *size, method)
        assert found.dtype == tf.uint8
        assert np.abs(found.numpy().astype(int) - expected).max() <= 2
        assert np.mean(found.numpy() != expected) < 0.06


def test_size_known_from_the_data(picture):
    half = tf.function(lambda image: resize(image, tf.shape(image)[0] // 2, 9, "bicubic"))
    assert half(tf.constant(picture(0, 30, 20))).shape == (15, 9, 3)


def test_mistakes(picture):
    with pytest.raises(UserError, match="expected one of bilinear, bicubic, lanczos"):
        check_method("cubic")
    with pytest.raises(UserError, match="expected uint8"):
        resize(tf.zeros([4, 4, 3], tf.int32), 2, 2, "bicubic")
