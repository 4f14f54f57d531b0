"""Arrays as data sets: `npz:FILE` and `npy:FOLDER`, through the pipeline and its checks."""

import re
import resource
import tracemalloc
import zipfile

import encoded_sets
import numpy as np
import pytest
import tensorflow as tf
from encoded_sets import first, numbers
from ml_collections import ConfigDict
from PIL import Image

from beit_jax import config as configs
from beit_jax import local_files
from beit_jax.data import fingerprint, pipeline
from beit_jax.data.common_images import count_common
from beit_jax.data.decoding.array_pixels import decode_pixels
from beit_jax.data.sources import data_sets, npy, npz
from beit_jax.data.sources.folder import list_folder
from beit_jax.errors import UserError


def make_arrays(n=60, channels=(3,), dtype=np.uint8):
    """Images whose pixels all have the value of their number, in classes of ten."""
    image = np.broadcast_to(np.arange(n).reshape(n, 1, 1, *(1 for _ in channels)), (n, 6, 8, *channels)).astype(dtype)
    return {"image": np.ascontiguousarray(image), "label": np.arange(n) // 10}


def write(folder, kind, arrays):
    folder.mkdir(exist_ok=True)
    if kind == "npz":
        np.savez_compressed(folder / "data.npz", **arrays)
        return f"npz:{folder / 'data.npz'}"
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return f"npy:{folder}"


def section(source, **changes):
    return encoded_sets.section(source, **(dict(ops="decode|flip_lr", eval_ops="decode") | changes))


@pytest.fixture(params=["npz", "npy"])
def kind(request):
    return request.param


def test_every_example_once_and_slices_are_mixed(tmp_path, kind):
    data = section(write(tmp_path, kind, make_arrays()))
    assert pipeline.info(data) == (54, 6)
    epoch = np.concatenate(numbers(first(pipeline.make_train(data, seed=0, batch_size=9), 6)))
    held_out = list(pipeline.make_eval(data, batch_size=3))
    evaluated = np.concatenate(numbers(held_out))
    assert sorted([*epoch, *evaluated]) == list(range(60)) and list(evaluated) == sorted(evaluated)
    assert len({number // 10 for number in evaluated}) > 2  # stored class by class
    assert [batch["label"].tolist() for batch in held_out] == [[n // 10 for n in row] for row in numbers(held_out)]
    assert count_common(data, "train[:50%]", "train[40%:]") == 6 and not count_common(data, "train[:9]", "train[9:]")


def test_a_stream_continues_and_processes_share_it(tmp_path, kind):
    data = section(write(tmp_path, kind, make_arrays()))
    whole = first(pipeline.make_train(data, seed=3, batch_size=8), 15)
    continued = first(pipeline.make_train(data, seed=3, batch_size=8, start_step=8), 7)
    for one, other in zip(whole[8:], continued, strict=True):
        assert all(np.array_equal(one[key], other[key]) for key in one)
    halves = [
        first(pipeline.make_train(data, seed=3, batch_size=8, process_index=index, process_count=2), 15)
        for index in range(2)
    ]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert np.array_equal(batch["image"], np.concatenate([part["image"] for part in parts]))


def test_splits_names_grey_images_and_few_labels(tmp_path, kind):
    train, held_out = make_arrays(channels=()), make_arrays(20, channels=(1,))
    arrays = {f"train_{name}": array for name, array in train.items()}
    arrays |= {f"eval_{name}": array for name, array in held_out.items()} | {"class_names": np.array(list("abcdef"))}
    source = write(tmp_path, kind, arrays)
    config = configs.set_source(configs.defaults("classify"), source)
    assert (config.data.split, config.data.eval_split) == ("train", "eval")
    local_files.check_data(config)
    data = section(source, split="train", eval_split="eval", labels="2 per class")
    assert pipeline.classes(data, "eval") == (6, tuple("abcdef"))
    batch = first(pipeline.make_train(data, seed=0, batch_size=12), 1)[0]
    assert sorted(batch["label"]) == sorted(2 * list(range(6))) and batch["image"].shape == (12, 6, 8, 3)
    assert fingerprint.describe_split(data, "eval")["classes"] == dict(a=10, b=10, c=0, d=0, e=0, f=0)


def test_without_a_second_split_a_tenth_is_held_out(tmp_path, kind):
    config = configs.set_source(configs.defaults("classify"), write(tmp_path, kind, make_arrays()))
    assert (config.data.split, config.data.eval_split) == ("train[:90%]", "train[90%:]")


def test_a_change_is_noticed_and_a_copy_is_none(tmp_path, kind):
    arrays = make_arrays()
    before, copy = (section(write(tmp_path / name, kind, arrays)) for name in ("a", "b"))
    now = [fingerprint.fingerprint(data) for data in (before, copy)]
    assert now[0] == now[1] != fingerprint.fingerprint(section(before.source, split="train[:80%]"))
    pixel, label = {**arrays, "image": arrays["image"].copy()}, {**arrays, "label": arrays["label"][::-1]}
    pixel["image"][7, 0, 0, 0] += 1
    for name, changed in (("c", pixel), ("d", label)):
        assert fingerprint.fingerprint(section(write(tmp_path / name, kind, changed))) != now[0]


def test_the_views_of_files_and_of_arrays_are_the_same(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 30, 3), dtype=np.uint8)
    (tmp_path / "files").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "files" / f"{number}.png")
    # Random draws depend on the position: the arrays have the order of the files, a hash of their names.
    order = [int(path.split("/")[-1][0]) for path in list_folder(str(tmp_path / "files"), "train").paths]
    arrays = write(tmp_path, "npz", {"image": pixels[order]})
    for ops in ("decode_view(16, 0.4)", "decode_view((16, 48), 0.4)", "decode|two_views(16, 8)|flip_lr"):
        views = []
        for source in (f"folder:{tmp_path / 'files'}", arrays):
            data = section(source, split="train", eval_split="train", eval_ops=ops)
            views.append(next(iter(pipeline.make_eval(data, batch_size=4)))["image"])
        assert views[0].shape[:2] == (4, 16) and np.array_equal(*views)


WRONG = [
    ({"pixels": np.zeros(3)}, r"has the arrays pixels; expected image"),
    ({"image": np.zeros((4, 5), np.uint8)}, r"has the shape \[4, 5\]; expected \[n, h, w, c\]"),
    ({"image": np.zeros((4, 5, 5, 3), np.int64)}, r"found images of type int64; expected uint8"),
    ({"image": np.zeros((4, 3, 5, 5), np.uint8)}, r"3 pixels high, with 5 channels, the last axis: move the axis"),
    ({"image": np.zeros((4, 5, 5, 3), np.uint8), "label": np.arange(3)}, r"shape \[3\]; expected \[4\]"),
    ({"image": np.zeros((4, 5, 5, 3), np.uint8), "label": np.eye(4)}, r"shape \[4, 4\]; expected \[4\]"),
    ({"image": np.zeros((2, 5, 5, 3), np.uint8), "label": np.array([0, np.nan])}, r"1 labels that are NaN"),
    ({"image": np.zeros((2, 5, 5, 3), np.uint8), "label": np.array([0, -2])}, r"has the label -2"),
    ({"image": np.zeros((2, 5, 5, 3), np.uint8), "label": np.array([0, None])}, r"holds Python objects"),
    ({"image": np.zeros((3, 5, 5, 3), np.uint8), "label": np.array([0, -1, 1])}, r"1 of the 3 images of 'train' have"),
    ({"image": np.zeros((2, 5, 5, 3), np.uint8)}, r"have no labels"),
    ({"train_image": np.zeros((2, 5, 5, 3), np.uint8), "label": np.arange(2)}, r"has label, but no image; call the"),
    ({"image": np.zeros((2, 5, 5, 3), np.uint8), "label": np.zeros(2, int)}, r"all of one class"),
    (
        {"image": np.zeros((2, 5, 5, 3), np.uint8), "train_image": np.zeros((2, 5, 5, 3), np.uint8)},
        r"has both image and train_image",
    ),
]


@pytest.mark.parametrize("arrays, message", WRONG, ids=[message[:24] for _, message in WRONG])
def test_wrong_arrays_are_refused_in_one_line(tmp_path, kind, arrays, message):
    check_refused(write(tmp_path, kind, arrays), message)


def check_refused(source, message):
    config = configs.defaults("classify")
    config.data.source, config.data.split, config.data.eval_split = source, "train", "train"
    with pytest.raises(UserError, match=message) as error:
        local_files.check_data(config)
    assert all("\n" not in line for line in error.value.lines)


def test_unknown_labels_are_left_out_where_examples_are_chosen_by_their_labels(tmp_path, kind):
    arrays = make_arrays() | {"label": np.where(np.arange(60) % 2, -1, np.arange(60) // 10)}
    config = configs.defaults("classify")
    config.data.update(dict(source=write(tmp_path, kind, arrays), split="train", labels="2 per class"))
    local_files.check_data(config, ["split"])
    assert pipeline.info(config.data).num_examples == 12
    config.data.labels = "all"
    with pytest.raises(UserError, match="30 of the 60 images of 'train' have the label -1"):
        local_files.check_data(config, ["split"])


def test_other_arrays_do_not_count(tmp_path, kind):
    others = {"names": np.array(["a", None]), "weights": np.asfortranarray(np.eye(3)), "coarse_label": np.arange(2.0)}
    local_files.check_data(ConfigDict(dict(data=section(write(tmp_path, kind, make_arrays() | others)))))


def test_labels_of_the_evaluation_alone(tmp_path, kind):
    train, held_out = make_arrays(), make_arrays(20)
    arrays = {"train_image": train["image"], "eval_image": held_out["image"], "eval_label": held_out["label"]}
    source = write(tmp_path, kind, arrays)
    assert (
        pipeline.classes(section(source), "eval").number == 2 and pipeline.classes(section(source), "train").number == 1
    )


def test_images_that_are_not_finite_are_named(tmp_path):
    image = np.zeros((8, 6, 8, 3), np.float32)
    image[5, 0, 0, 0] = np.nan
    source = write(tmp_path, "npy", {"image": image})
    data = section(source, split="train", eval_split="train", eval_ops="decode(max_value=1.0)", max_bad_fraction=0.5)
    log = tmp_path / "unreadable.txt"
    batches = list(pipeline.make_eval(data, batch_size=4, log=log))
    assert [batch["valid"].sum() for batch in batches] == [4, 3]
    assert all(np.isfinite(batch["image"]).all() for batch in batches)
    assert re.search(r"image.npy\[5\].*pixels that are NaN or infinite", log.read_text())


def test_the_axis_of_the_channels_is_looked_for():
    with pytest.raises(UserError, match=r"found images with 64 channels and data.channels=13.*: move the axis"):
        decode_pixels(tf.zeros([13, 64, 64], tf.uint8), 13)


def test_damaged_files_are_refused(tmp_path):
    source = write(tmp_path, "npz", make_arrays())
    file = tmp_path / "data.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    check_refused(source, "is damaged or cut short")
    file.write_bytes(b"no archive")
    check_refused(source, r"is no \.npz file")
    file.unlink()
    check_refused(source, "there is no file")
    check_refused(f"npz:{tmp_path}", "is a folder; expected a file, or npy:")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("image.npy", b"text")
    check_refused(source, "is no array of NumPy")
    npy = write(tmp_path / "maps", "npy", make_arrays())
    image = tmp_path / "maps" / "image.npy"
    image.write_bytes(image.read_bytes()[:-10])
    check_refused(npy, "is damaged or cut short")


def test_a_damaged_member_stops_the_input_in_one_line(tmp_path):
    arrays = make_arrays() | {"image": np.random.default_rng(0).integers(0, 256, (60, 6, 8, 3), dtype=np.uint8)}
    source = write(tmp_path, "npz", arrays)
    file = tmp_path / "data.npz"
    damaged = bytearray(file.read_bytes())
    damaged[4000] ^= 255
    file.write_bytes(damaged)
    with pytest.raises(UserError, match="is damaged or cut short"):
        pipeline.make_train(section(source), seed=0, batch_size=4)


def test_unknown_splits_are_told_with_those_there(tmp_path):
    check = re.escape("has the split train, not 'validation'")
    with pytest.raises(UserError, match=check):
        data_sets.select(write(tmp_path, "npz", make_arrays()), "validation")


def test_maps_take_no_memory(tmp_path):
    rows = 4000
    image = np.lib.format.open_memmap(tmp_path / "image.npy", "w+", np.uint8, (rows, 128, 128, 3))  # 197 MB
    image[::100] = 1
    image.flush()
    del image

    def private_memory():
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon"))

    before = private_memory()
    data = section(f"npy:{tmp_path}", split="train", eval_split="train", eval_ops="decode|resize(8)")
    seen = sum(len(batch["image"]) for batch in pipeline.make_eval(data, batch_size=50))
    assert seen == rows and private_memory() - before < 100


@pytest.fixture
def larger_than_the_memory(tmp_path):
    """An array of 2 TiB, all zeros, in a file that takes a few kilobytes."""
    with open(tmp_path / "image.npy", "wb") as file:
        header = dict(descr="|u1", fortran_order=False, shape=(2**15, 2**13, 2**13, 1))
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 2**41)
    return tmp_path


def test_an_array_may_be_larger_than_the_memory(larger_than_the_memory):
    images = npy.open_npy(str(larger_than_the_memory)).examples("train").images
    assert images.load()[-1, -1, -1, 0] == 0
    tracemalloc.start()
    images.digest()
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_too_little_address_space_is_no_damage(larger_than_the_memory):
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**40, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"cannot be mapped: 2048.0 GiB are more than the system lets a process map"
        ):
            npy.open_npy(str(larger_than_the_memory))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_a_member_is_decompressed_in_pieces(tmp_path):
    np.savez(tmp_path / "data.npz", image=np.zeros((40, 2**20, 1, 1), np.uint8))
    images = npz.open_npz(str(tmp_path / "data.npz")).examples("train").images
    tracemalloc.start()
    assert images.load().sum() == 0
    assert tracemalloc.get_traced_memory()[1] < 40 * 2**20 + 3 * npz.PIECE
    tracemalloc.stop()
