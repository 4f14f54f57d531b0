import io
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from beit_jax.data import pipeline
from beit_jax.data.sources.folder import list_pairs
from beit_jax.data.sources.open_source import open_source
from beit_jax.errors import UserError

TRAIN_OPS = (
    "decode|reduce_zero_label|random_ratio_resize(16, 64)|random_segment_crop(12)|flip_lr|photometric_distortion"
    "|normalize('imagenet')|pad_to(12, 12)|keep('image', 'label_map')"
)
EVAL_OPS = (
    "decode|reduce_zero_label|resize_within(16, 64)|normalize('imagenet')|pad_for_evaluation(16, 32, 40)"
    "|keep('image', 'size', 'label_map', 'label_size')"
)
PLAIN_OPS = "decode|normalize('imagenet')|pad_for_evaluation(48, 48, 48)"  # of tests of reading: quick to trace


def write_pair(root, folder, name, size, labels=None, seed=0):
    """An image whose colour is 10 times the label of each pixel, and its label map."""
    for kind in ("images", "annotations"):
        (root / kind / folder).mkdir(parents=True, exist_ok=True)
    if labels is None:
        labels = np.random.default_rng(seed).integers(0, 20, (2, 2), dtype=np.uint8)
    labels = np.asarray(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))
    Image.fromarray((10 * labels)[..., None].repeat(3, 2)).save(root / "images" / folder / f"{name}.jpg", quality=95)
    Image.fromarray(labels).save(root / "annotations" / folder / f"{name}.png")


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory):
    """ADEChallengeData2016 in small: 24 pairs to train with and 10 to validate with, of many sizes."""
    root = tmp_path_factory.mktemp("pairs")
    for folder, count in (("training", 24), ("validation", 10)):
        for index in range(count):
            write_pair(root, folder, f"ADE_{folder}_{index}", (20 + index, 38 - index), seed=index)
    return root


@pytest.fixture
def folder(pairs_folder, tmp_path):
    """A copy of it that tests may change."""
    shutil.copytree(pairs_folder, tmp_path / "pairs")
    return tmp_path / "pairs"


@pytest.fixture
def config(data_config, pairs_folder):
    return data_config(source=f"folder:{pairs_folder}", eval_split="validation", ops=TRAIN_OPS, eval_ops=EVAL_OPS)


def records(source):
    zero = tf.constant(0, tf.int64)
    raw = source.raw(None, zero, zero, pipeline.Shard())
    return list(raw.map(lambda *raw: source.record(raw[0] if len(raw) == 1 else raw)).as_numpy_iterator())


def pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)))


def test_folder_pairs_belong_together(pairs_folder):
    for split, folder, count in (("train", "training", 24), ("validation", "validation", 10)):
        pairs = list_pairs(str(pairs_folder), split)
        assert len(set(pairs)) == count
        for image, label_map in pairs:
            expected = image.replace("/images/", "/annotations/").replace(".jpg", ".png")
            assert label_map == expected and f"/images/{folder}/" in image
        source = open_source(f"folder:{pairs_folder}", "", split, 0)
        assert (source.num_examples, source.num_classes) == (count, 0)
        found = records(source)
        assert [record["_id"].decode() for record in found] == [image for image, _ in pairs]
        for record in found:
            assert set(record) == {"image", "label_map", "_id"}
            close = np.abs(pixels(record["image"])[..., 0].astype(int) - 10 * pixels(record["label_map"]))
            assert np.median(close) <= 2


def test_other_names_of_splits_and_slices(tmp_path):
    for folder in ("train", "val", "test"):
        write_pair(tmp_path / "splits", folder, folder, (6, 6))
    for split in ("train", "validation", "test"):
        ((image, label_map),) = list_pairs(str(tmp_path / "splits"), split)
        assert image.rsplit("/")[-2] == label_map.rsplit("/")[-2] == {"validation": "val"}.get(split, split)
    for index in range(10):
        write_pair(tmp_path / "flat", "", f"{index}.x", (6, 6))
        write_pair(tmp_path / "flat", "deeper", f"{index}.x", (6, 6))
    whole = list_pairs(str(tmp_path / "flat"), "train")
    assert len(whole) == 20
    parts = [list_pairs(str(tmp_path / "flat"), split) for split in ("train[:80%]", "train[80%:]")]
    assert [len(part) for part in parts] == [16, 4] and parts[0] + parts[1] == whole
    with pytest.raises(UserError, match="has no split folders"):
        list_pairs(str(tmp_path / "flat"), "validation")


def test_the_images_alone_are_a_folder_with_splits(pairs_folder):
    assert open_source(f"folder:{pairs_folder / 'images'}", "", "validation", 0).num_examples == 10


def test_missing_partners_are_named(folder):
    (folder / "annotations" / "training" / "ADE_training_3.png").unlink()
    with pytest.raises(UserError, match=r"the image .*training/ADE_training_3.jpg has no label map .*\(1 of 24"):
        list_pairs(str(folder), "train")
    (folder / "images" / "validation" / "ADE_validation_4.jpg").unlink()
    with pytest.raises(UserError, match=r"the label map .*validation/ADE_validation_4.png has no image .*\(1 of 10"):
        list_pairs(str(folder), "validation")
    shutil.rmtree(folder / "annotations" / "validation")
    with pytest.raises(UserError, match=r"the image .*validation/ADE_validation_0.jpg has no label map .*\(9 of 9"):
        list_pairs(str(folder), "validation")


def test_two_files_of_one_name_and_no_files(folder):
    shutil.copy(folder / "images/training/ADE_training_1.jpg", folder / "images/training/ADE_training_1.png")
    with pytest.raises(UserError, match=r"ADE_training_1.* and .*ADE_training_1.*; expected one file of that name"):
        list_pairs(str(folder), "train")
    shutil.rmtree(folder / "images" / "validation")
    (folder / "images" / "validation").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        list_pairs(str(folder), "validation")


def test_few_labels_are_refused(config):
    config.labels = "5 per class"
    with pytest.raises(UserError, match="found a choice of labels with label maps"):
        pipeline.make_train(config, seed=0, batch_size=4)


@pytest.mark.slow
def test_training_batches(config):
    stream = pipeline.make_train(config, seed=0, batch_size=8)
    batches = [next(stream) for _ in range(6)]
    for batch in batches:
        assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
            "image": ((8, 12, 12, 3), np.float32),
            "label_map": ((8, 12, 12), np.int32),
        }
        assert set(np.unique(batch["label_map"])) <= {*range(19), 255}
        for image, labels in zip(batch["image"], batch["label_map"], strict=True):
            assert image.any() and (labels < 255).any()
    resumed = pipeline.make_train(config, seed=0, batch_size=8, start_step=4)
    for expected in batches[4:]:
        for key, value in next(resumed).items():
            np.testing.assert_array_equal(value, expected[key])
    assert pipeline.spec(config, "train", config.ops) == {
        "image": ((1, 12, 12, 3), np.float32),
        "label_map": ((1, 12, 12), np.int32),
    }


def test_evaluation_keeps_the_labels_at_their_size(config, pairs_folder):
    batches = list(pipeline.make_eval(config, batch_size=4))
    assert sum(batch["valid"].sum() for batch in batches) == 10
    assert pipeline.spec(config, "validation", config.eval_ops) == {
        "image": ((1, 16, 32, 3), np.float32),
        "label_map": ((1, 40, 40), np.int32),
        "size": ((1, 2), np.int32),
        "label_size": ((1, 2), np.int32),
    }
    rows = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    rows = {key: value[rows["valid"]] for key, value in rows.items()}
    assert {tuple(size) for size in rows["label_size"]} == {(20 + index, 38 - index) for index in range(10)}
    for row, (_, path) in enumerate(list_pairs(str(pairs_folder), "validation")):
        height, width = rows["label_size"][row]
        expected = np.asarray(Image.open(path)).astype(int) - 1
        np.testing.assert_array_equal(rows["label_map"][row, :height, :width], np.where(expected < 0, 255, expected))
        assert (rows["label_map"][row, height:] == 255).all() and (rows["label_map"][row, :, width:] == 255).all()
        factor = min(64 / max(height, width), 16 / min(height, width))
        assert rows["size"][row].tolist() == [int(height * factor + 0.5), int(width * factor + 0.5)]
        # An image higher than wide lies on the canvas transposed.
        assert not rows["image"][row, rows["size"][row].min() :].any() and rows["image"][row, 0, 0].any()


def test_images_and_labels_stay_together(data_config, tmp_path):
    # Every pixel's colour is 10 times its label: what the ops do to one they must do to the other.
    for index in range(12):
        write_pair(tmp_path, "train", str(index), (30 + index, 45 - index), seed=index)
    ops = "decode|random_ratio_resize(24, 96, 1.0, 3.0)|random_segment_crop(16)|flip_lr|normalize(0.0, 1.0)"
    ops += "|pad_to(16, 16)"
    batch = next(pipeline.make_train(data_config(source=f"folder:{tmp_path}", ops=ops), seed=0, batch_size=12))
    labelled = batch["label_map"] != 255
    difference = np.abs(batch["image"].mean(-1) * 255 - 10 * batch["label_map"])[labelled]
    assert labelled.mean() > 0.9
    assert np.mean(difference <= 4) > 0.8  # the rest lies on borders, which are blurred


def test_grey_and_transparent_images(config, folder):
    for index, path in enumerate((folder / "images" / "validation").iterdir()):
        Image.open(path).convert(("L", "RGBA", "P")[index % 3]).save(path.with_suffix(".png"))
        path.unlink()
    config.source, config.eval_ops = f"folder:{folder}", PLAIN_OPS
    assert sum(batch["valid"].sum() for batch in pipeline.make_eval(config, batch_size=4)) == 10


def test_a_label_map_of_another_size_is_named(config, folder):
    path = folder / "annotations" / "training" / "ADE_training_7.png"
    Image.open(path).resize((5, 4), Image.Resampling.NEAREST).save(path)
    config.source, config.ops = f"folder:{folder}", PLAIN_OPS
    stream = pipeline.make_train(config, seed=0, batch_size=24)
    with pytest.raises(UserError) as error:
        next(stream)
    image = folder / "images" / "training" / "ADE_training_7.jpg"
    expected = (
        f"the label map of {image} has 4 x 5 pixels, its image 27 x 31; expected the same: repair or remove the pair"
    )
    assert str(error.value) == expected


def test_images_too_large_for_the_canvas(config):
    config.eval_ops = config.eval_ops.replace("32, 40", "32, 37")
    with pytest.raises(UserError, match=r"^the label map of .*0.jpg has 20 x 38 pixels .* raise inference.label_side"):
        list(pipeline.make_eval(config, batch_size=5))


@pytest.mark.slow
def test_unreadable_label_maps_are_skipped(config, folder):
    (folder / "annotations" / "training" / "ADE_training_7.png").write_bytes(b"broken")
    config.source, config.eval_split = f"folder:{folder}", "train"
    config.eval_ops = config.eval_ops.replace("32, 40", "64, 64")
    assert sum(batch["valid"].sum() for batch in pipeline.make_eval(config, batch_size=8)) == 23
    batch = next(pipeline.make_train(config, seed=0, batch_size=24))
    assert (batch["label_map"] < 255).any((1, 2)).all()


def test_ops_without_a_frame(config):
    config.ops = "decode|random_segment_crop(8)"
    with pytest.raises(UserError, match=r"sides that may differ between examples; add pad_to\(...\)"):
        pipeline.make_train(config, seed=0, batch_size=8)


class SceneParse150(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # tfds has the name
    """The features and files of tfds' builder, from given folders in place of a download of gigabytes."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None
    folders = None

    def _info(self):
        kinds = {"image": "jpeg", "annotation": "png"}
        features = {name: tfds.features.Image(encoding_format=kind) for name, kind in kinds.items()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples() for name in ("train", "test")}

    def _generate_examples(self):
        images, annotations = self.folders
        for path in images.iterdir():
            yield path.stem, {"image": str(path), "annotation": str(annotations / f"{path.stem}.png")}


@pytest.fixture
def scene_parse150(tmp_path):
    """The function that prepares a data set of that name from a folder of images and one of annotations."""

    def prepare(*folders):
        builder = SceneParse150(data_dir=tmp_path / "tfds")
        builder.folders = folders
        builder.download_and_prepare()
        return str(tmp_path / "tfds")

    return prepare


def test_scene_parse150(scene_parse150, pairs_folder, config):
    images, annotations = (pairs_folder / kind / "validation" for kind in ("images", "annotations"))
    config.data_dir = scene_parse150(images, annotations)
    config.source, config.eval_split, config.eval_ops = "scene_parse150", "test", PLAIN_OPS
    assert pipeline.info(config) == (10, 150)
    expected = {path.read_bytes(): (annotations / f"{path.stem}.png").read_bytes() for path in images.iterdir()}
    found = records(open_source("scene_parse150", config.data_dir, "train", 100))
    assert {record["image"]: record["label_map"] for record in found} == expected
    assert sum(batch["valid"].sum() for batch in pipeline.make_eval(config, batch_size=4)) == 10


def test_instance_masks_are_no_label_maps(scene_parse150, folder, config):
    # What tfds downloads for scene_parse150: the challenge's instances, category in red and instance in green.
    annotations = folder / "annotations" / "validation"
    for path in annotations.iterdir():
        categories = np.asarray(Image.open(path))
        Image.fromarray(np.stack([categories, categories + 1, 0 * categories], axis=-1)).save(path)
    config.data_dir = scene_parse150(folder / "images" / "validation", annotations)
    config.source, config.eval_split, config.eval_ops = "scene_parse150", "test", PLAIN_OPS
    with pytest.raises(
        UserError, match=r"^the label map of .* is a PNG file of colours, .* ADEChallengeData2016"
    ) as error:
        list(pipeline.make_eval(config, batch_size=4))
    assert "\n" not in str(error.value)
