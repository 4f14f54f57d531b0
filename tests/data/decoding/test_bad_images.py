"""A zoo of image files: each bad one is named and counted, and changes nothing for the good ones."""

import os
import subprocess
import sys
from pathlib import Path

import image_zoo
import numpy as np
import pytest
import tensorflow as tf
from commands import command
from PIL import Image

from beit_jax.data import pipeline
from beit_jax.data.decoding.image_header import MAX_PIXELS, read_size
from beit_jax.data.ops import image as image_ops
from beit_jax.experiment_data import ExperimentData

BAD, ODD = image_zoo.bad(), image_zoo.odd()
LINK = "link_to_nowhere.jpg"
BATCH = 12
ORDINARY = 40 + -(40 + len(ODD) + len(BAD) + 1) % BATCH  # images beside them; an epoch has all images
OPS = "decode|flip_lr|two_views(12, 6)|normalize|map_pixels|blockwise_mask(5, 2, 4)"


def fill(root: Path, zoo: bool) -> Path:
    """Two class folders of ordinary and odd images, and of bad ones or (`zoo` is false) good ones of the same names."""
    contents = {f"{index:03d}.jpg": image_zoo.encode(image_zoo.picture(index), "JPEG") for index in range(ORDINARY)}
    contents |= {name: content for name, (content, _) in ODD.items()}
    for number, name in enumerate([*BAD, LINK]):
        good = image_zoo.encode(image_zoo.picture(1000 + number), "PNG")
        contents[name] = BAD[name][0] if zoo and name in BAD else good
    for number, (name, content) in enumerate(contents.items()):
        path = root / ("ant", "bee")[number % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if zoo and name == LINK:
            path.unlink()
            path.symlink_to(root / "nowhere.jpg")
    return root


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """The folder with bad images, and the same folder with good ones instead."""
    return [fill(tmp_path_factory.mktemp(name), name == "zoo") for name in ("zoo", "twin")]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory, zoo):
    """A folder of the same names, and so the same order, whose pixels are the image's number; and the bad numbers."""
    root, bad = tmp_path_factory.mktemp("numbered"), set()
    for number, path in enumerate(sorted(zoo[1].rglob("*.*"))):
        copy = root / path.relative_to(zoo[1])
        copy.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(copy, "PNG")
        if path.name in BAD or path.name == LINK:
            bad.add(number)
    return root, bad


def train(data_config, folder, steps, processes=1, log=None, **changes):
    """The first batches, rows of all processes together."""
    config = data_config(source=f"folder:{folder}", max_bad_fraction=0.5, **{"ops": OPS} | changes)
    parts = []
    for index in range(processes):
        stream = pipeline.make_train(
            config, seed=3, batch_size=BATCH, process_index=index, process_count=processes, log=log
        )
        parts.append([next(stream) for _ in range(steps)])
    return [{key: np.concatenate([part[key] for part in step]) for key in step[0]} for step in zip(*parts)]


def names(log: Path) -> list[str]:
    return sorted(os.path.basename(line.split("\t")[0]) for line in log.read_text().splitlines())


@pytest.fixture(scope="module")
def decode():
    """Runs the op on files, traced once."""
    op = tf.function(image_ops.decode())
    seed = tf.constant([0, 0], tf.int64)

    def run(**files):
        found = op({key: tf.constant(content) for key, content in files.items()}, seed)
        return {key: value.numpy() for key, value in found.items()}

    return run


@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_read(decode, name):
    content, expected = ODD[name]
    found = decode(image=content)
    assert found["_fault"] == b""
    assert found["image"].shape == expected.shape
    assert np.abs(found["image"].astype(int) - expected).max() <= (1 if content[:2] == b"\xff\xd8" else 0)


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_marked_with_a_reason(decode, name):
    content, reason = BAD[name]
    found = decode(image=content)
    assert reason in found["_fault"].decode()
    assert found["image"].shape == (1, 1, 3)


@pytest.mark.parametrize(
    "name", ["png_named.JPEG", "grey.jpg", "animated.gif", *(name for name in ODD if "webp" in name)]
)
def test_sizes_are_those_of_the_header(name):
    content, pixels = ODD[name]
    assert tuple(read_size(tf.constant(content))) == pixels.shape[:2]


def test_a_decompression_bomb_takes_no_memory(decode):
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of the memory cannot be measured here")
    content = image_zoo.bomb(12_000)
    assert MAX_PIXELS < 12_000**2 and len(content) < 100_000
    decode(image=image_zoo.bomb(100))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    assert b"12000 x 12000 pixels" in decode(image=content)["_fault"]
    assert peak() - before < 100  # 412 once decoded
    assert not decode(image=image_zoo.bomb(3000))["_fault"]


def peak() -> float:
    """Of the memory of this process, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bad_images_change_nothing_for_the_good_ones(data_config, zoo, numbered, tmp_path, processes):
    number_folder, bad = numbered
    steps = 2 * ((ORDINARY + len(ODD) + len(BAD) + 1) // BATCH)  # two epochs
    log = tmp_path / "unreadable.txt"
    with_bad = train(data_config, zoo[0], steps, processes, log)
    without = train(data_config, zoo[1], steps, processes, tmp_path / "none.txt")
    order = train(data_config, number_folder, steps, processes, ops="decode|resize(8)")
    assert not (tmp_path / "none.txt").exists()
    rows, replaced = BATCH // processes, 0
    for one, other, numbers in zip(with_bad, without, order, strict=True):
        number = np.rint(numbers["image"][:, 0, 0, 0] * 255).astype(int)
        good = np.array([index not in bad for index in number])
        assert one.keys() == other.keys() == {"image", "tokenizer_image", "label", "mask"}
        for key, values in one.items():
            np.testing.assert_array_equal(values[good], other[key][good])
        for row in np.flatnonzero(~good):
            first = row // rows * rows
            before = [earlier for earlier in range(first, row) if good[earlier]]
            replacement = before[-1] if before else first + np.flatnonzero(good[first : first + rows])[0]
            np.testing.assert_array_equal(one["image"][row], one["image"][replacement])
            assert one["label"][row] == one["label"][replacement]
            replaced += 1
    assert replaced > len(bad)
    assert names(log) == sorted([*BAD, LINK])


def test_every_bad_image_is_counted_with_its_reason(data_config, zoo, tmp_path):
    config = data_config(source=f"folder:{zoo[0]}", eval_split="train", max_bad_fraction=0.5)
    log = tmp_path / "unreadable.txt"
    found = pipeline.make_eval(config, batch_size=BATCH, log=log)
    config.source = f"folder:{zoo[1]}"
    expected = list(pipeline.make_eval(config, batch_size=BATCH))
    for _ in range(2):
        passed = list(found)
        assert sum(int(batch["valid"].sum()) for batch in passed) == ORDINARY + len(ODD)
        assert sum(int(batch["valid"].sum()) for batch in expected) == ORDINARY + len(ODD) + len(BAD) + 1
        for one, other in zip(passed, expected, strict=True):
            np.testing.assert_array_equal(one["image"][one["valid"]], other["image"][one["valid"]])
            np.testing.assert_array_equal(one["label"][one["valid"]], other["label"][one["valid"]])
    said = dict(line.split("\t") for line in log.read_text().splitlines())
    assert len(said) == len(BAD) + 1
    for path, reason in said.items():
        assert str(zoo[0]) in path
        assert (BAD[os.path.basename(path)][1] if LINK not in path else "cannot be opened") in reason


def test_files_that_cannot_be_opened(data_config, tmp_path):
    root = tmp_path / "flat"
    root.mkdir()
    for index in range(30):
        (root / f"{index}.jpg").write_bytes(image_zoo.encode(image_zoo.picture(index), "JPEG"))
    (root / "folder.jpg").mkdir()  # is searched for images, whatever its name
    (root / "gone.jpg").symlink_to(tmp_path / "missing.jpg")
    os.mkfifo(root / "pipe.jpg")  # is not listed: reading it would wait for ever
    expected = ["gone.jpg"]
    if os.getuid():  # nothing is closed to root
        (root / "0.jpg").chmod(0)
        expected = ["0.jpg", *expected]
    train(data_config, root, 6, log=tmp_path / "log.txt", ops="decode|resize(8)")
    assert names(tmp_path / "log.txt") == expected


@pytest.mark.slow
def test_whether_an_image_is_bad_does_not_depend_on_the_crop(data_config, tmp_path):
    large = Image.fromarray(image_zoo.picture(0)).resize((320, 240))
    whole = image_zoo.encode(large, "JPEG")
    cut = whole[: len(whole) * 9 // 10]
    # What would be read of the crop alone, which is why the whole image is decoded.
    assert tf.io.decode_and_crop_jpeg(cut, [0, 0, 100, 100]).shape == (100, 100, 3)
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_and_crop_jpeg(cut, [140, 0, 100, 100])
    root = tmp_path / "images"
    root.mkdir()
    for index in range(36):
        content = cut if index % 12 == 0 else image_zoo.encode(image_zoo.picture(index), "JPEG")
        (root / f"{index}.jpg").write_bytes(content)
    config = data_config(source=f"folder:{root}", ops="decode|random_resized_crop(8)", max_bad_fraction=0.5)
    for seed in range(2):
        log = tmp_path / f"{seed}.txt"
        stream = pipeline.make_train(config, seed=seed, batch_size=BATCH, log=log)
        for epoch in range(1, 4):
            for _ in range(3):
                next(stream)
            assert names(log) == ["0.jpg", "12.jpg", "24.jpg"]
            assert stream._unreadable.count == 3 * epoch


def test_a_label_map_that_cannot_be_read_is_distinguished_from_its_image(decode):
    image, labels = image_zoo.encode(image_zoo.picture(0), "PNG"), image_zoo.encode(image_zoo.picture(0), "PNG", "L")
    for changes, fault in (
        ({"label_map": labels[:60]}, b"its label map: damaged"),
        ({"label_map": b""}, b"its label map: empty"),
        ({"label_map": image_zoo.png(60_000, 60_000, b"", 8, 0)}, b"its label map: damaged"),
        ({"image": image[:60]}, b"damaged"),
        ({"image": image[:60], "label_map": b""}, b"damaged"),
        ({"image": image_zoo.bomb(12_000)}, b"12000 x 12000 pixels"),
        ({}, b""),
    ):
        found = decode(**{"image": image, "label_map": labels} | changes)
        assert found["_fault"].startswith(fault) and bool(found["_fault"]) == bool(fault)
        if fault:
            assert (found["image"].tolist(), found["label_map"].tolist()) == ([[[0, 0, 0]]], [[[255]]])


def test_each_process_of_a_run_has_its_file(monkeypatch, tmp_path):
    data = ExperimentData(None, tmp_path, None, None, None)
    assert data.unreadable_log == tmp_path / "unreadable.txt"
    monkeypatch.setattr("jax.process_index", lambda: 2)
    assert data.unreadable_log == tmp_path / "unreadable-2.txt"


@pytest.mark.slow
@pytest.mark.usefixtures("in_the_checkout")
def test_a_run_with_too_many_bad_images_ends_in_one_line(zoo, tmp_path):
    workdir = tmp_path / "run"
    overrides = [f"--config.data.source=folder:{zoo[0]}", "--config.data.eval_split=train[:10]"]
    overrides += ["--config.data.split=train[10:]"]
    arguments = [sys.executable, "-m", "beit_jax.train", *command("tokenizer", workdir, *overrides)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "images seen cannot be read" in errors[0]
    assert f"all in {workdir}/unreadable.txt" in errors[0]
    assert set(names(workdir / "unreadable.txt")) <= {*BAD, LINK}
