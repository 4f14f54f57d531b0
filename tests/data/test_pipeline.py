import shutil

import numpy as np
import pytest

from beit_jax.data import pipeline
from beit_jax.errors import UserError

OPS = "decode|flip_lr|two_views(12, 6)|normalize|map_pixels|blockwise_mask(5, 2, 4)"


def take(stream, count):
    return [next(stream) for _ in range(count)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key])


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("sharded", "few")]


@pytest.fixture(params=["folder", *SLOW])
def config(request, data_config, class_folder, sharded_dir):
    """Each kind of source, in a small size: 60, 72 and 70 examples."""
    if request.param == "folder":
        return data_config(source=f"folder:{class_folder}", ops=OPS)
    if request.param == "sharded":  # a part of each of two files
        return data_config(data_dir=sharded_dir, split="train[18%:23%]", ops=OPS, shuffle_buffer=40)
    return data_config(labels="7 per class", ops=OPS)


def test_a_batch_depends_on_seed_and_step_alone(config):
    stream = pipeline.make_train(config, seed=3, batch_size=16)
    expected = take(stream, 14)
    assert {key: (value.shape, value.dtype) for key, value in expected[0].items()} == {
        "image": ((16, 12, 12, 3), np.float32),
        "tokenizer_image": ((16, 6, 6, 3), np.float32),
        "mask": ((16, 4, 4), np.bool_),
        "label": ((16,), np.int32),
    }
    assert -1 <= expected[0]["image"].min() < 0 < expected[0]["image"].max() <= 1
    assert np.abs(expected[0]["tokenizer_image"] - 0.5).max() <= 0.4 + 1e-6
    per_epoch = stream.steps_per_epoch
    assert per_epoch == stream.num_examples // 16
    for step in (per_epoch - 1, per_epoch + 2):
        resumed = pipeline.make_train(config, seed=3, batch_size=16, start_step=step)
        assert_same(take(resumed, 3), expected[step : step + 3])
    other = next(pipeline.make_train(config, seed=4, batch_size=16))
    assert not np.array_equal(other["image"], expected[0]["image"])
    assert len({batch["image"].tobytes() for batch in expected}) == 14


@pytest.mark.parametrize("kind", ["folder", "sharded"])
def test_an_epoch_holds_each_example_once(data_config, class_folder, sharded_dir, kind):
    changes = dict(
        folder=dict(source=f"folder:{class_folder}"), sharded=dict(data_dir=sharded_dir, split="train[250:310]")
    )
    config = data_config(**changes[kind], ops="decode|resize(8)")
    stream = pipeline.make_train(config, seed=0, batch_size=6)
    epochs = [np.concatenate([batch["image"] for batch in take(stream, 10)]) for _ in range(2)]
    images = [{image.tobytes() for image in epoch} for epoch in epochs]
    assert len(images[0]) == 60 and images[0] == images[1]
    assert not np.array_equal(*epochs)


def test_augmentation_differs_between_epochs(data_config, class_folder):
    config = data_config(source=f"folder:{class_folder}", ops="decode|random_resized_crop(8)")
    stream = pipeline.make_train(config, seed=0, batch_size=60)
    first, second = ({image.tobytes() for image in next(stream)["image"]} for _ in range(2))
    assert not first & second


@pytest.mark.parametrize(
    ("kind", "processes"), [("folder", 3), ("sharded", 2), pytest.param("repeated", 3, marks=pytest.mark.slow)]
)
def test_batches_do_not_depend_on_the_number_of_processes(data_config, class_folder, sharded_dir, kind, processes):
    # So nothing is lost or seen twice if their number changes in the middle of an epoch.
    changes = {
        "folder": dict(source=f"folder:{class_folder}"),
        "sharded": dict(data_dir=sharded_dir, split="train[250:310]"),
        "repeated": dict(source=f"folder:{class_folder}", repeats=2),
    }
    config = data_config(**changes[kind], ops=OPS)
    whole = take(pipeline.make_train(config, seed=0, batch_size=12, start_step=3), 4)
    parts = [
        pipeline.make_train(config, seed=0, batch_size=12, start_step=3, process_index=index, process_count=processes)
        for index in range(processes)
    ]
    for batch, *pieces in zip(whole, *(take(part, 4) for part in parts), strict=True):
        assert_same([batch], [{key: np.concatenate([piece[key] for piece in pieces]) for key in batch}])


@pytest.mark.slow
def test_processes_that_do_not_divide_the_streams(data_config):
    config = data_config(split="train[:12]", ops="decode|resize(8)")
    streams = [
        pipeline.make_train(config, seed=0, batch_size=12, process_index=index, process_count=4) for index in range(4)
    ]
    images = [image.tobytes() for stream in streams for image in next(stream)["image"]]
    assert len(images) == len(set(images)) == 12


@pytest.mark.parametrize(
    ("kind", "process_count"), [("folder", 3), ("sharded", 2), pytest.param("folder", 1, marks=pytest.mark.slow)]
)
def test_evaluation_counts_each_example_once(data_config, class_folder, sharded_dir, kind, process_count):
    changes = {
        "folder": dict(source=f"folder:{class_folder}", eval_split="train[:50]"),
        "sharded": dict(data_dir=sharded_dir, eval_split="train[260:310]"),
    }
    config = data_config(**changes[kind], eval_ops="decode|resize(8)|blockwise_mask(5, 2, 4)")
    sets = [
        pipeline.make_eval(config, batch_size=12, process_index=index, process_count=process_count)
        for index in range(process_count)
    ]
    assert [len(data) for data in sets] == [5] * process_count
    assert sets[0].num_examples == 50
    seen = []
    for data in sets:
        batches = list(data)
        assert len(batches) == 5
        assert all(batch["image"].shape == (12 // process_count, 8, 8, 3) for batch in batches)
        assert all(batch["mask"].any((1, 2)).all() for batch in batches)  # rows that fill up are real examples too
        seen += [image.tobytes() for batch in batches for image in batch["image"][batch["valid"]]]
        assert_same(list(data), batches)
    assert len(seen) == len(set(seen)) == 50


def test_few_labels(data_config):
    stream = pipeline.make_train(data_config(labels="3 per class", ops="decode|resize(8)"), seed=0, batch_size=30)
    first, second = next(stream), next(stream)
    assert (stream.num_examples, stream.num_classes, stream.steps_per_epoch) == (30, 10, 1)
    assert np.bincount(first["label"]).tolist() == [3] * 10
    assert {image.tobytes() for image in first["image"]} == {image.tobytes() for image in second["image"]}


def test_repeated_augmentation(data_config):
    # 12 batches of 12 rows an epoch, 48 of the 144 examples, three views of each in a row.
    config = data_config(ops="decode|flip_lr|random_resized_crop(8)", labels="15 per class", repeats=3)
    once = data_config(ops="decode|resize(8)", labels="15 per class", repeats=3)

    def images(start):
        stream = pipeline.make_train(once, seed=0, batch_size=12, start_step=start)
        assert stream.steps_per_epoch == 12
        return [image.tobytes() for _ in range(start, 12) for image in next(stream)["image"]]

    epoch = images(0)
    assert all(epoch[place] == epoch[place // 3 * 3] for place in range(144)) and len(set(epoch)) == 48
    assert images(5) == epoch[5 * 12 :]
    views = next(pipeline.make_train(config, seed=0, batch_size=12))["image"]
    assert len({view.tobytes() for view in views}) == 12


def test_training_examples_once(data_config):
    config = data_config(labels="3 per class")
    batches = list(pipeline.make_train_once(config, "decode|resize(8)", seed=0, batch_size=8))
    assert [int(batch["valid"].sum()) for batch in batches] == [8, 8, 8, 6]
    labels = np.concatenate([batch["label"][batch["valid"]] for batch in batches])
    assert np.bincount(labels).tolist() == [3] * 10


def test_info(data_config, class_folder):
    assert pipeline.info(data_config(split="test")) == (359, 10)
    assert pipeline.info(data_config(source=f"folder:{class_folder}", split="train[50%:]")) == (30, 3)
    assert pipeline.info(data_config(labels="7 per class")) == (70, 10)
    assert pipeline.info(data_config(source=f"folder:{class_folder}", labels="25%")) == (15, 3)


@pytest.fixture
def damaged_folder(class_folder, tmp_path):
    """The class folder with a truncated JPEG, an empty file and a text in place of three images."""
    root = tmp_path / "damaged"
    shutil.copytree(class_folder, root)
    whole = (root / "ant" / "01.jpg").read_bytes()
    (root / "ant" / "01.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "bee" / "02.PNG").write_bytes(b"")
    (root / "cat" / "03.jpg").write_text("not an image")
    return root


def test_unreadable_images_are_replaced_counted_and_named(data_config, damaged_folder, caplog):
    config = data_config(source=f"folder:{damaged_folder}", ops="decode|resize(8)")
    stream = pipeline.make_train(config, seed=0, batch_size=10)
    batches = take(stream, 12)
    named = [record.getMessage() for record in caplog.records if record.name == "beit_jax"]
    assert len(named) == 3 and "(3 unreadable so far)" in named[-1]  # once each, in two epochs
    assert all(any(path in message for message in named) for path in ("ant/01.jpg", "bee/02.PNG", "cat/03.jpg"))
    for batch in batches:
        assert set(batch) == {"image", "label"}
        assert batch["image"].any((1, 2, 3)).all()
    images = [image.tobytes() for batch in batches[:6] for image in batch["image"]]
    assert len(images) == 60 and len(set(images)) == 57
    pairs = {
        (image.tobytes(), int(label))
        for batch in batches
        for image, label in zip(batch["image"], batch["label"], strict=True)
    }
    assert len(pairs) == 57  # an image that stands in for another brings its own label
    again = pipeline.make_train(config, seed=0, batch_size=10, start_step=4)
    assert_same(take(again, 5), batches[4:9])


@pytest.mark.slow
def test_too_many_unreadable_images_end_the_run(data_config, damaged_folder, tmp_path):
    config = data_config(
        source=f"folder:{damaged_folder}", ops="decode|resize(8)", max_bad_fraction=0.02,
        eval_split="train", eval_ops="decode|resize(8)",
    )  # fmt: skip
    stream = pipeline.make_train(config, seed=0, batch_size=60)
    next(stream)  # three of 60 may be chance where one is expected
    with pytest.raises(UserError, match=r"of the \d+ images seen cannot be read .*raise data\.max_bad_fraction"):
        take(stream, 20)
    config.max_bad_fraction = 0.001
    with pytest.raises(UserError, match=r"3 of the 60 images seen cannot be read"):
        take(pipeline.make_train(config, seed=0, batch_size=60), 1)
    with pytest.raises(UserError, match=r"3 of the 60 images"):
        list(pipeline.make_eval(config, batch_size=8))
    for index in range(30):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{index}.jpg").write_text("not an image")
    config.source = f"folder:{tmp_path / 'texts'}"
    with pytest.raises(UserError, match=r"cannot be read"):
        take(pipeline.make_train(config, seed=0, batch_size=5), 10)


def test_files_that_vanish_are_named(data_config, class_folder, tmp_path):
    root = tmp_path / "vanishing"
    shutil.copytree(class_folder, root)
    stream = pipeline.make_train(data_config(source=f"folder:{root}"), seed=0, batch_size=60)
    shutil.rmtree(root)
    with pytest.raises(UserError, match=r"images seen cannot be read \(.*vanishing"):
        take(stream, 5)


def test_records_that_vanish_end_the_input(data_config, sharded_dir, tmp_path):
    root = tmp_path / "vanishing"
    shutil.copytree(sharded_dir, root)
    stream = pipeline.make_train(data_config(data_dir=str(root)), seed=0, batch_size=60)
    shutil.rmtree(root)
    with pytest.raises(UserError, match=r"the input stopped: .*vanishing.*; check the files and the ops"):
        take(stream, 5)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"batch_size": 2000}, r"found 1438 examples in 'train' of digits, expected at least one batch of 2000"),
        ({}, {"batch_size": 9, "process_count": 2}, r"found the batch size 9 for 2 processes"),
        ({}, {"batch_size": 8, "seed": -1}, r"found the seed -1"),
        ({"ops": "resize(8)"}, {"batch_size": 8}, r"'resize\(8\)' do not begin with decode"),
        ({"ops": "decode|decode|resize(8)"}, {"batch_size": 8}, r"decoded already"),
        ({"ops": "decode|normalize|resize(8)"}, {"batch_size": 8}, r"found float32 pixels to resize"),
        ({"ops": "decode|resize_small(8)"}, {"batch_size": 8}, r"the ops leave 'image' with sides that may differ"),
        ({"eval_ops": "resize(8)"}, {"batch_size": 8, "seed": 2**31}, r"found the seed 2147483648"),
        ({"labels": "1000 per class"}, {"batch_size": 8}, r"expected at least 1000 for data.labels="),
    ],
)
def test_mistakes(data_config, changes, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        pipeline.make_train(data_config(**changes), **({"seed": 0} | arguments))
    assert "\n" not in str(error.value)


def test_fewer_examples_than_processes(data_config):
    with pytest.raises(UserError, match=r"found 2 examples .* for 4 processes"):
        pipeline.make_eval(data_config(eval_split="test[:2]"), batch_size=8, process_count=4)
