"""Against plain NumPy, image by image, window by window, pixel by pixel of the resized image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from beit_jax.errors import UserError
from beit_jax.tasks import sliding_window
from beit_jax.training import sharding

CROP, STRIDE, CANVAS, LABEL_SIDE, CLASSES = 8, 5, (20, 26), 37, 5
# Smaller than, equal to and larger than the window, and one side of each; just before and at a further window; wide and
# high ones, which lie on the canvas transposed.
SIZES = [(5, 6), (8, 8), (20, 26), (26, 8), (13, 14), (14, 13), (1, 26), (25, 20)]
LABEL_SIZES = [(5, 6), (16, 19), (37, 37), (9, 8), (13, 14), (28, 5), (3, 37), (24, 31)]


def network(seed=0, cells=4):
    """Logits on `cells` by `cells`, of the pixels there and of the position in the window; for NumPy and JAX alike."""
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((3, CLASSES)).astype(np.float32)
    offsets = rng.standard_normal((cells, cells, CLASSES)).astype(np.float32)

    def logits_of(windows):
        n = CROP // cells
        pooled = windows.reshape(windows.shape[0], cells, n, cells, n, 3).mean((2, 4))
        return pooled @ kernel + offsets[None]

    return logits_of


def on_canvas(canvas, height, width):
    """The part of a canvas `[H, W, ...]` that an image lies on, as `[height, width, ...]`."""
    return canvas[:width, :height].swapaxes(0, 1) if height > width else canvas[:height, :width]


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    image = np.zeros((len(SIZES), *CANVAS, 3), np.float32)
    for row, (height, width) in zip(image, SIZES):
        on_canvas(row, height, width)[:] = rng.standard_normal((height, width, 3))
    return image, np.array(SIZES, np.int32), np.array(LABEL_SIZES, np.int32)


def resized(x, height, width):
    """Bilinear, align_corners=False, `[h, w, c]`, one axis after the other in float64."""
    for axis, length in enumerate((height, width)):
        last = x.shape[axis] - 1
        at = np.clip((np.arange(length) + 0.5) * x.shape[axis] / length - 0.5, 0, last)
        low = np.floor(at).astype(int)
        fraction = np.expand_dims(at - low, [1 - axis, 2])
        x = x.take(low, axis) * (1 - fraction) + x.take(np.minimum(low + 1, last), axis) * fraction
    return x


def slide(logits_of, image):
    """mmsegmentation's loops over one image `[h, w, 3]`, which is padded where it is smaller than a window."""
    height, width = image.shape[:2]
    total, count = np.zeros((height, width, CLASSES)), np.zeros((height, width, 1))
    for i in range(max(height - CROP + STRIDE - 1, 0) // STRIDE + 1):
        for j in range(max(width - CROP + STRIDE - 1, 0) // STRIDE + 1):
            bottom, right = min(i * STRIDE + CROP, height), min(j * STRIDE + CROP, width)
            top, left = max(bottom - CROP, 0), max(right - CROP, 0)
            window = np.zeros((CROP, CROP, 3), np.float32)
            window[: bottom - top, : right - left] = image[top:bottom, left:right]
            logits = resized(logits_of(window[None])[0].astype(np.float64), CROP, CROP)
            total[top:bottom, left:right] += logits[: bottom - top, : right - left]
            count[top:bottom, left:right] += 1
    assert count.min() >= 1
    return total / count


def reference(logits_of, batch, ratios=(1.0,), flips=(False,), clamp=False):
    """Scores `[label height, label width, c]` of each image: logits of one pass, probabilities of several."""
    for canvas, (height, width), label_size in zip(*batch):
        image, scores = on_canvas(canvas, height, width), []
        room = np.sort(CANVAS)[:: 1 if height <= width else -1]
        for ratio in ratios:
            if clamp:
                ratio = max(ratio, min(CROP / min(height, width), room[0] / height, room[1] / width))
            scaled = resized(image.astype(np.float64), int(height * ratio + 0.5), int(width * ratio + 0.5))
            for flipped in flips:
                logits = slide(logits_of, scaled[:, ::-1] if flipped else scaled)
                logits = resized(logits, *label_size)
                scores.append(logits[:, ::-1] if flipped else logits)
        if len(scores) == 1:
            yield scores[0]
        else:
            powers = np.exp(np.stack(scores))
            yield (powers / powers.sum(-1, keepdims=True)).mean(0)


def check(found, scores):
    """The same class wherever the best score leads by more than rounding, which is almost everywhere."""
    for predicted, expected in zip(np.asarray(found), scores, strict=True):
        height, width = expected.shape[:2]
        first, second = np.sort(expected, axis=-1)[..., -1], np.sort(expected, axis=-1)[..., -2]
        clear = first - second > 1e-4
        assert clear.mean() > 0.95
        np.testing.assert_array_equal(predicted[:height, :width][clear], expected.argmax(-1)[clear])
        assert np.all(predicted[height:] == 255) and np.all(predicted[:, width:] == 255)


def predict(logits_of, batch, **options):
    def run(*arrays):
        return sliding_window.predict(logits_of, *arrays, crop=CROP, stride=STRIDE, label_side=LABEL_SIDE, **options)

    return jax.jit(run)(*batch)


@pytest.mark.parametrize("cells", [8, 2])
def test_one_pass(batch, cells):
    found = predict(network(cells=cells), batch)
    assert found.shape == (len(SIZES), LABEL_SIDE, LABEL_SIDE) and found.dtype == jnp.int32
    check(found, reference(network(cells=cells), batch))


def test_blocks_of_rows_change_nothing(batch, monkeypatch):
    in_one = predict(network(), batch)
    monkeypatch.setattr(sliding_window, "ROWS", 7)
    np.testing.assert_array_equal(predict(network(), batch), in_one)


@pytest.mark.parametrize(
    ("ratios", "flip", "clamp"), [((0.5, 1.75), False, False), ((0.5, 1.25), True, True), ((0.75,), True, False)]
)
def test_several_passes(batch, ratios, flip, clamp):
    found = predict(network(), batch, ratios=ratios, flip=flip, clamp_to_crop=clamp)
    check(found, reference(network(), batch, ratios, (False, True) if flip else (False,), clamp))


def test_three_smallest_scales_of_the_official_code_are_one():
    """Of an image whose short side is the window's."""
    size = jnp.array([[8, 12]], jnp.int32)
    sizes = [sliding_window.scaled_size(size, CANVAS, ratio, CROP)[0].tolist() for ratio in (0.5, 0.75, 1.0, 1.25)]
    assert sizes == [[[8, 12]]] * 3 + [[[10, 15]]]
    assert sliding_window.scaled_size(size, CANVAS, 0.5, 0)[0].tolist() == [[4, 6]]


def test_sizes_are_clamped_as_far_as_the_canvas_reaches():
    size = jnp.array([[4, 10], [4, 20], [6, 5]], jnp.int32)
    scaled, largest = sliding_window.scaled_size(size, CANVAS, 0.5, CROP)
    assert scaled.tolist() == [[8, 20], [5, 26], [10, 8]] and largest == CANVAS


@pytest.mark.parametrize("mirrored", [False, True])
def test_every_pixel_is_covered_once(mirrored):
    """All weights of a label pixel add up to one, whatever the sizes."""
    lengths = jnp.stack([jnp.arange(1, 41, dtype=jnp.int32)] * 2, axis=1)
    windows = sliding_window.Windows(CROP, STRIDE, lengths, (40, 40))
    assert windows.number()[jnp.array([6, 7, 8, 12, 13, 39]), 0].tolist() == [1, 1, 2, 2, 3, 8]
    assert windows.most() == (8, 8)

    def total_weights(lengths):
        windows = sliding_window.Windows(CROP, STRIDE, lengths, (40, 40))
        return jnp.sum(sliding_window.stitching(windows, 1, 4, jnp.flip(lengths), 40, mirrored), axis=-1)

    np.testing.assert_allclose(jax.jit(total_weights)(lengths), 1.0, atol=1e-5)


def test_constant_logits():
    """Where nothing covered a pixel, all classes would have 0, and the first would win."""
    image = np.ones((len(SIZES), *CANVAS, 3), np.float32)
    constant = jnp.array([1.0, 1.5, 0.0], jnp.float32)
    found = predict(
        lambda windows: jnp.broadcast_to(constant[None, None, None], (windows.shape[0], 4, 4, 3)),
        (image, np.array(SIZES, np.int32), np.array(LABEL_SIZES, np.int32)),
    )
    for predicted, (height, width) in zip(np.asarray(found), LABEL_SIZES, strict=True):
        assert np.all(predicted[:height, :width] == 1) and (predicted == 1).sum() == height * width


def test_pixels_pass_unchanged(batch):
    """A network that answers with its input: at ratio 1 and the image's size, the class is the largest channel."""
    image, size, _ = batch
    for flip in (False, True):
        found = np.asarray(predict(lambda windows: windows, (image, size, size), flip=flip))
        for row, predicted, (height, width) in zip(image, found, SIZES, strict=True):
            np.testing.assert_array_equal(predicted[:height, :width], on_canvas(row, height, width).argmax(-1))


def test_flip_mirrors_within_the_image():
    """Of a network that answers with the column, mirrored passes make every row a palindrome."""
    ramp = np.stack([np.arange(8), 3.4 * np.ones(8), 7 - 2 * np.arange(8)], axis=-1).astype(np.float32)
    size = np.array([[8, 8], [6, 7], [8, 11], [20, 26], [25, 12]], np.int32)
    image = np.zeros((5, *CANVAS, 3), np.float32)

    def logits_of(windows):
        return jnp.broadcast_to(jnp.asarray(ramp)[None, None], (windows.shape[0], 8, 8, 3))

    found = np.asarray(predict(logits_of, (image, size, size), flip=True))
    alone = np.asarray(predict(logits_of, (image, size, size)))
    for predicted, once, (height, width) in zip(found, alone, size, strict=True):
        predicted, once = predicted[:height, :width], once[:height, :width]
        np.testing.assert_array_equal(predicted, predicted[:, ::-1])
        assert not np.array_equal(once, once[:, ::-1])


def test_eight_devices_equal_one(batch):
    """Each device has one image; windows and logits stay where their image is."""
    alone = predict(network(), batch, flip=True)
    mesh = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        split = [jax.device_put(x, rows) for x in batch]
        run = jax.jit(
            lambda *arrays: sliding_window.predict(
                network(), *arrays, crop=CROP, stride=STRIDE, label_side=LABEL_SIDE, flip=True
            )
        )
        compiled = run.lower(*split).compile()
        found = compiled(*split)
    assert found.sharding.shard_shape(found.shape)[0] == 1
    np.testing.assert_array_equal(found, alone)
    assert "all-gather" not in compiled.as_text() and "all-to-all" not in compiled.as_text()


def test_rows_without_an_image(batch):
    """Padding of a last batch: size 0, which must not disturb the others."""
    image, size, label_size = (np.concatenate([x[:2], np.zeros_like(x[:1])]) for x in batch)
    found = predict(network(), (image, size, label_size))
    np.testing.assert_array_equal(found[:2], predict(network(), batch)[:2])


def test_gaps_between_windows_are_reported(batch):
    with pytest.raises(UserError, match="found windows 9 pixels apart, expected 1 to 8"):
        sliding_window.predict(network(), *batch, crop=8, stride=9, label_side=8)
