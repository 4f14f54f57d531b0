"""Label maps as users have them: what is counted, what is refused before training, and what stops a later batch."""

import numpy as np
import pytest
from PIL import Image

from beit_jax.data import label_counts, pipeline, preprocessing
from beit_jax.data.sources.folder import list_pairs
from beit_jax.data.sources.open_source import open_source
from beit_jax.errors import UserError

OPS = "decode|resize_within(8, 32)|normalize|pad_for_evaluation(8, 32, 32)"


@pytest.fixture
def folder(tmp_path, data_config):
    """Writes pairs `0.png`, `1.png`, ... of images and label maps, and returns the config that reads them."""

    def make(maps, ops=OPS, **settings):
        for kind in ("images", "annotations"):
            (tmp_path / kind).mkdir(exist_ok=True)
        for index, labels in enumerate(maps):
            image = labels if isinstance(labels, Image.Image) else Image.fromarray(np.asarray(labels))
            image.save(tmp_path / "annotations" / f"{index}.png", **settings)
            Image.new("RGB", image.size).save(tmp_path / "images" / f"{index}.png")
        return data_config(source=f"folder:{tmp_path}", eval_split="train", ops=ops, eval_ops=ops)

    return make


def labels(*values, shape=(6, 8)):
    return np.resize(np.array(values, np.uint8), shape)


def with_ops(*ops):
    return OPS.replace("decode", "|".join(["decode", *ops]))


def test_counts(folder):
    config = folder([labels(0, 1), labels(4, 4, 255), np.full((9, 3), 1, np.uint8)])
    found = label_counts.count_labels(config, "train", config.ops)
    assert (found.maps, found.total, found.largest) == (3, 3, 9)
    assert found.pixels[[0, 1, 4, 255]].tolist() == [24, 24 + 27, 32, 16] and found.pixels.sum() == 123
    assert found.examples[4].endswith("images/1.png") and found.largest_name.endswith("images/2.png")
    assert found.classes.tolist() == [0, 1, 4] and found.ignored == pytest.approx(16 / 123)
    assert label_counts.count_classes(config, ("train",)) == 5
    text = label_counts.describe(found, 5)
    assert "3 counted, 3 of 5 classes (2, 3 do not occur); 13.0% of the pixels do not count (255)" in text
    assert label_counts.count_labels(config, "train", config.ops, limit=2).maps == 2


def test_ops_that_change_labels(folder):
    config = folder([labels(0, 1, 255), labels(0, 3)], with_ops("reduce_zero_label"))
    found = label_counts.count_labels(config, "train", config.ops)
    assert found.classes.tolist() == [0, 2] and found.pixels[255] == 16 + 16 + 24
    assert label_counts.count_classes(config, ("train",)) == 3
    config.ops = config.eval_ops = with_ops("map_labels({0: 0, 1: 1, 3: 1}, 255)")
    assert label_counts.count_classes(config, ("train",)) == 2
    assert label_counts.count_labels(config, "train", config.ops).pixels[[0, 1, 255]].tolist() == [40, 40, 16]


def test_a_table_of_several_ops():
    table = preprocessing.label_table("decode|map_labels({255: 7})|flip_lr|reduce_zero_label|normalize")
    assert table[[0, 1, 7, 254, 255]].tolist() == [255, 0, 6, 253, 6]


def test_the_number_is_that_of_all_splits(folder):
    config = folder([labels(0, 1)] * 4 + [labels(9)])
    config.split, config.eval_split = "train[:60%]", "train[60%:]"
    assert label_counts.count_classes(config, (config.split, config.eval_split)) == 10


@pytest.mark.parametrize(
    ("maps", "ops", "message"),
    [
        (
            [labels(0, 255)] * 3,
            OPS,
            r"hold 1 class, .* stored labels are 0 \(50.0%\), 255 \(50.0%\): .*map_labels\({255: 1}\)",
        ),
        ([labels(3)], OPS, r"hold 1 class, expected two or more; the stored labels are 3 \(100.0%\): check the ops"),
        ([labels(0)], with_ops("reduce_zero_label"), "hold 0 classes, expected two or more"),
        (
            [labels(0, 1), labels(0, 5)],
            OPS,
            r"the label map of .*/1.png holds the label 5, expected 0 to 3, or 255 for",
        ),
        ([labels(0, 1, shape=(40, 8))], OPS, r"inference.label_side=32, but the label map of .*0.png has a side of 40"),
    ],
)
def test_what_is_refused_before_training(folder, maps, ops, message):
    with pytest.raises(UserError, match=message) as error:
        label_counts.check_run(folder(maps, ops), num_classes=4, label_side=32)
    assert "\n" not in str(error.value)


def test_nothing_to_evaluate_on_is_refused_before_training(folder):
    config = folder([labels(0, 1)])
    config.eval_ops = with_ops("reduce_zero_label", "map_labels({0: 255})")
    with pytest.raises(UserError, match="hold 0 classes, expected one or more; the stored labels are 0"):
        label_counts.check_run(config, num_classes=2, label_side=32)


def test_binary_masks(folder):
    ops = with_ops("map_labels({255: 1})")
    train, _ = label_counts.check_run(folder([labels(0, 255)] * 2, ops), num_classes=2, label_side=32)
    assert train.pixels[[0, 1, 255]].tolist() == [48, 48, 0]


def palette_image():
    image = Image.fromarray(labels(0, 1, 2))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    return image


@pytest.mark.parametrize(
    "image",
    [
        palette_image(),
        Image.fromarray(labels(0, 1, 2).astype(np.uint16)),
        Image.fromarray(labels(0, 1, 2)).convert("RGB"),
    ],
)
def test_labels_of_all_kinds_of_png(folder, image):
    config = folder([image])
    assert label_counts.count_labels(config, "train", config.ops).pixels[[0, 1, 2, 3]].tolist() == [16, 16, 16, 0]


@pytest.mark.parametrize("image", [palette_image().convert("RGB"), Image.fromarray(np.full((6, 8), 1000, np.uint16))])
def test_colours_and_large_numbers_are_refused(folder, image):
    with pytest.raises(UserError, match=r"the label map of .*0.png is a PNG file of colours, or of numbers above 255"):
        label_counts.check_run(folder([image]), num_classes=4, label_side=32)


def test_a_label_map_of_another_size_is_named_before_training(folder, tmp_path):
    config = folder([labels(0, 1)] * 3)
    Image.new("RGB", (5, 4)).save(tmp_path / "images" / "1.png")
    with pytest.raises(
        UserError, match=r"the label map of .*1.png has 6 x 8 pixels, its image 4 x 5; expected the same"
    ):
        label_counts.check_run(config, num_classes=4, label_side=32)


def test_jpeg_files_are_no_label_maps(folder, tmp_path):
    config = folder([labels(0, 1)], format="JPEG")
    with pytest.raises(UserError, match=r"none of the label maps of .* can be read; expected PNG files, .* JPEG"):
        label_counts.check_run(config, num_classes=4, label_side=32)
    (tmp_path / "annotations" / "0.png").rename(tmp_path / "annotations" / "0.jpg")
    with pytest.raises(UserError, match=r"0.png has no label map of its name .* but .*/0.jpg; expected PNG"):
        list_pairs(str(tmp_path), "train")


def test_an_unreadable_label_map_is_left_to_training(folder, tmp_path):
    config = folder([labels(0, 1), labels(2)])
    (tmp_path / "annotations" / "1.png").write_bytes(b"broken")
    found = label_counts.count_labels(config, "train", config.ops)
    assert (found.maps, found.classes.tolist()) == (1, [0, 1])


@pytest.mark.parametrize("training", [True, False])
def test_every_batch_is_checked(folder, training):
    """The wrong label is in the last of 40 examples; a check of the first batch alone would miss it."""
    config = folder([labels(0, 1)] * 40)
    last = open_source(config.source, "", "train", 1).record(39)["_id"].numpy().decode()
    Image.fromarray(labels(0, 3)).save(last.replace("/images/", "/annotations/"))
    config.ops = config.eval_ops = "decode|normalize|pad_to(8, 8)"
    make, start = (pipeline.make_train, dict(seed=0)) if training else (pipeline.make_eval, {})
    batches, passed = iter(make(config, batch_size=4, num_classes=3, **start)), 0
    with pytest.raises(UserError, match=r"holds the label 3, expected 0 to 2, or 255") as error:
        while next(batches):
            passed += 1
    assert last in str(error.value) and (training or passed)
