"""What `configs/own_images.py` chooses, and how: from the images of a folder, the devices and the minutes."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from beit_jax import config as configs
from beit_jax import own_images, train
from beit_jax.data.sources import image_sizes
from beit_jax.data.sources.folder import list_folder
from beit_jax.data.sources.image_walk import ImageWalk
from beit_jax.data.sources.listed_once import listed_once
from beit_jax.errors import UserError
from beit_jax.machine import Machine
from beit_jax.own_images import Images, Plan, Work

CPU = Machine("cpu", 1, 2, 3e10)
GPU = Machine("NVIDIA H100 80GB HBM3", 8, 64, 2e15)
CHOSEN = Plan(0, "", 0, 0)


def images(train=700, side=48, classes=("a", "b")):
    return Images("train[:90%]", "train[90%:]", train, train // 9, classes, side, side * side)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 images in two class folders, most of them 40 pixels high."""
    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for name in ("ant", "bee"):
        (root / name).mkdir()
        for number in range(30):
            side = 40 if number else 500
            Image.fromarray(rng.integers(0, 256, (side, 52, 3), np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("found", "machine", "plan"),
    [
        (images(), CPU, Plan(32, "Nano/4", 64, 64)),
        (images(side=500), CPU, Plan(64, "Nano/8", 64, 64)),
        (images(side=28), CPU, Plan(32, "Nano/4", 64, 64)),
        (images(train=100), CPU, Plan(32, "Nano/4", 32, 8)),
        (images(train=10_000, side=28), CPU, Plan(32, "Nano/4", 256, 64)),
        (images(train=700, side=500), GPU, Plan(224, "Nano/16", 64, 64)),
        (images(train=3_000, side=100), GPU, Plan(96, "Ti/12", 128, 256)),
        (images(train=1_281_167, side=375), GPU, Plan(224, "B/16", 4096, 1024)),
    ],
)
def test_sizes_that_are_chosen(found, machine, plan):
    assert own_images.choose(found, machine, CHOSEN) == plan


def test_sizes_that_are_given_stay():
    given = Plan(48, "S/6", 100, 24)
    assert own_images.choose(images(), CPU, given) == given
    assert own_images.choose(images(), CPU, Plan(48, "Ti", 0, 0)).variant == "Ti/6"
    with pytest.raises(UserError, match=r"size=37 is divisible by no patch of about 4\.625 pixels"):
        own_images.choose(images(), CPU, Plan(37, "", 0, 0))
    with pytest.raises(UserError, match="found the model variant 'Q/4'"):
        own_images.choose(images(), CPU, Plan(32, "Q", 0, 0))


def test_a_batch_that_the_devices_share():
    assert [own_images.batch_of(count, GPU) for count in (8, 100, 3_000, 10**6)] == [8, 8, 256, 1024]
    assert [own_images.batch_of(count, CPU) for count in (1, 5, 10, 700)] == [1, 4, 8, 64]
    with pytest.raises(UserError, match="5 images to train on do not fill a batch on 8 devices"):
        own_images.batch_of(5, GPU)


def test_lengths_take_the_minutes():
    kinds = dict(tokenizer="tokenizer", pretrain="pretrain", from_beit_seed0="finetune", from_scratch_seed0="finetune")
    works = {name: Work(kind, 10**8, 64, 100_000) for name, kind in kinds.items()}
    for some in (works, {"pretrain": works["pretrain"]}):  # a stage of its own gets all the time
        steps = own_images.lengths(some, CPU, 48 * 48, minutes=20)
        seconds = sum(steps.values()) * 64 * CPU.seconds_per_image(10**8, 48 * 48)
        assert seconds == pytest.approx(20 * 60 - own_images.START_S - len(some) * own_images.STAGE_S, rel=0.01)
    steps = own_images.lengths(works, CPU, 48 * 48, minutes=20)
    assert steps["from_beit_seed0"] == steps["from_scratch_seed0"]  # the arms differ in nothing but the start
    short = own_images.lengths({"pretrain": Work("pretrain", 10**8, 64, 64)}, GPU, 48 * 48, minutes=20)
    assert short["pretrain"] == own_images.MOST_EPOCHS["pretrain"]  # and no longer


def test_labels_that_are_few():
    assert [own_images.labelled(images(), text) for text in ("all", "10%", "5 per class")] == [700, 70, 10]


def test_what_a_folder_holds(folder):
    found = own_images.look_at(f"folder:{folder}")
    assert found == Images("train[:90%]", "train[90%:]", 54, 6, ("ant", "bee"), 40, 40 * 52)
    with pytest.raises(UserError, match="data='cifar10'; expected a folder of images, as data=folder:PATH"):
        own_images.look_at("cifar10")


def test_splits_of_folders(folder, tmp_path):
    def splits(*names):
        for name in names:
            (tmp_path / name).symlink_to(folder)
        data = configs.set_source(configs.defaults("classify"), f"folder:{tmp_path}").data
        return data.split, data.eval_split

    assert splits("train") == ("train[:90%]", "train[90%:]")
    assert splits("test") == ("train[:90%]", "train[90%:]")  # the test images are kept for a test
    assert splits("val") == ("train", "validation")


def test_unreadable_images_are_passed_over(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"no image of 1 can be read, such as .*a\.png"):
        image_sizes.some_sizes([str(tmp_path / "a.png")])
    Image.new("RGB", (8, 5)).save(tmp_path / "b.png")
    assert image_sizes.some_sizes([str(tmp_path / name) for name in ("a.png", "b.png")]) == [(8, 5)]


def test_a_command_lists_a_folder_and_reads_sizes_once(folder, tmp_path, monkeypatch):
    """What is added is seen after it."""
    root = tmp_path / "copy"
    shutil.copytree(folder, root)
    walked, opened, enter, opening = [], [], ImageWalk.enter, Image.open
    monkeypatch.setattr(ImageWalk, "enter", lambda walk, path: walked.append(str(path)) or enter(walk, path))
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or opening(path))
    with listed_once():
        found = own_images.look_at(f"folder:{root}")
        assert own_images.look_at(f"folder:{root}") == found
        assert len(list_folder(str(root), "train").paths) == 60
    assert walked.count(str(root / "ant")) == 1 and len(opened) == 54
    for number in range(10):
        Image.new("RGB", (40, 52)).save(root / "ant" / f"new{number}.png")
    assert own_images.look_at(f"folder:{root}").train == 63


def test_the_recipe(folder, repository):
    config = configs.load(f"{repository}/configs/own_images.py:data=folder:{folder},seeds=1,minutes=5,labels=50%")
    configs.validate(config)
    assert list(config.stages) == ["tokenizer", "pretrain", "from_beit_seed0", "from_scratch_seed0"]
    beit, scratch = (configs.flatten(config[f"from_{arm}_seed0"]) for arm in ("beit", "scratch"))
    assert {key for key in beit if beit[key] != scratch[key]} == {"init_from"}
    assert beit["data.labels"] == "50%" and "flip_lr" not in beit["data.ops"]
    assert config.pretrain.tokenizer.vocab == 8192  # its run says how many there are
    flipped = configs.load(f"{repository}/configs/own_images.py:data=folder:{folder},flip")
    assert all("|flip_lr|" in flipped[name].data.ops for name in flipped.stages)


def test_images_without_classes(folder, repository):
    config = configs.load(f"{repository}/configs/own_images.py:data=folder:{folder / 'ant'}")
    assert list(config.stages) == ["tokenizer", "pretrain"]


def test_the_recipe_for_arrays_and_for_data_sets(folder, repository, tmp_path):
    labels = np.arange(40) % 2
    np.savez(tmp_path / "grey.npz", image=np.zeros((40, 50, 48), np.uint8), label=labels)
    np.savez(tmp_path / "bands.npz", image=np.zeros((40, 50, 48, 5), np.uint8), label=labels)
    for source, found in (
        (f"hf:{folder}", Images("train[:90%]", "train[90%:]", 54, 6, ("ant", "bee"), 40, 40 * 52)),
        (f"npz:{tmp_path}/grey.npz", Images("train[:90%]", "train[90%:]", 36, 4, ("0", "1"), 48, 48 * 50)),
    ):
        assert own_images.look_at(source) == found
        config = configs.load(f"{repository}/configs/own_images.py:data={source},seeds=1,minutes=5")
        configs.validate(config)
        assert list(config.stages) == ["tokenizer", "pretrain", "from_beit_seed0", "from_scratch_seed0"]
        assert {config[name].data.source for name in config.stages} == {source}
    bands = f"channels=5,data=npz:{tmp_path}/bands.npz,max_value=255,statistics=inception,seeds=1,minutes=5"
    config = configs.load(f"{repository}/configs/own_images.py:{bands}")
    configs.validate(config)
    for name in config.stages:
        data = config[name].data
        assert (data.channels, data.max_value, data.statistics) == (5, 255.0, "inception") and "jitter" not in data.ops


def test_data_is_required(repository):
    with pytest.raises(UserError, match=re.escape("data is missing; expected a folder of images")):
        configs.load(f"{repository}/configs/own_images.py")


@pytest.mark.parametrize("name", ["tokenizer", "pretrain", "finetune"])
def test_published_settings_for_a_folder_that_is_small(folder, repository, name):
    """On a CPU, the three configs take the settings of the recipe, unless the size of the network is given."""
    source = f"{repository}/configs/{name}.py:data=folder:{folder}"
    config = configs.load(source)
    stage = dict(tokenizer="tokenizer", pretrain="pretrain", finetune="from_beit_seed0")[name]
    recipe = configs.load(f"{repository}/configs/own_images.py:data=folder:{folder}")[stage]
    own, theirs = configs.flatten(config), configs.flatten(recipe)
    lengths = {"steps", "eval_every", "save_every", "log_every"}  # a stage of its own gets all the time
    assert {key for key in own if own[key] != theirs[key]} <= {"init_from", "tokenizer.init_from"} | lengths
    assert own["steps"] >= theirs["steps"]
    full = configs.load(source + dict(tokenizer=",published").get(name, ",variant=S/16"))
    assert full.model.image_size in (224, 256) and full.batch_size == 8  # of 54 images
    assert full.optimizer.warmup in ("", "10%", "20 epochs")
    assert (full.data.split, full.data.eval_split) == ("train[:90%]", "train[90%:]")


@pytest.mark.parametrize("prefix", ["hf:", "npz:"])
def test_published_settings_for_a_small_data_set(folder, repository, tmp_path, prefix):
    np.savez(tmp_path / "a.npz", image=np.zeros((60, 50, 48, 3), np.uint8), label=np.arange(60) % 2)
    source = f"hf:{folder}" if prefix == "hf:" else f"npz:{tmp_path}/a.npz"
    for name, stage in (("tokenizer", "tokenizer"), ("pretrain", "pretrain"), ("finetune", "from_beit_seed0")):
        config = configs.load(f"{repository}/configs/{name}.py:data={source}")
        chosen = configs.load(f"{repository}/configs/own_images.py:data={source}")[stage]
        assert config.model.image_size == chosen.model.image_size < 224 and config.batch_size == chosen.batch_size
    full = configs.load(f"{repository}/configs/pretrain.py:data={source},variant=S/16")
    assert (full.model.image_size, full.batch_size, full.optimizer.warmup) == (224, 8, "10%")  # of 54 images


@pytest.mark.parametrize("name", ["tokenizer", "pretrain", "finetune"])
def test_a_small_set_of_other_channels(repository, tmp_path, name):
    np.savez(tmp_path / "bands.npz", image=np.zeros((60, 48, 48, 5), np.uint16), label=np.arange(60) % 2)
    source = f"npz:{tmp_path}/bands.npz"
    assert own_images.is_small(source) and not own_images.is_small(f"npz:{tmp_path}/none.npz")
    config = configs.load(f"{repository}/configs/{name}.py:data={source},channels=5")
    assert config.model.image_size <= 32 and config.data.channels == 5 and config.batch_size == 8
    assert configs.load(f"{repository}/configs/{name}.py:data={source},channels=5,runlocal").data.source == source
    assert configs.load(f"{repository}/configs/{name}.py:data={source},channels=5,runlocal").batch_size == 8  # of 54


def test_lengths_of_a_small_folder(folder, repository):
    config = configs.load(f"{repository}/configs/pretrain.py:data=folder:{folder},epochs=300")
    assert config.steps == 300 * 54 // config.batch_size
    assert configs.load(f"{repository}/configs/tokenizer.py:data=folder:{folder},steps=70").steps == 70
    configs.override(config, ["--config.epochs=50"])
    assert (config.epochs, config.steps) == (50, 0)
    configs.override(config, ["--config.steps=7"])
    assert (config.epochs, config.steps) == (0, 7)
    configs.override(config, ["--config.steps=7", "--config.epochs=3"])  # `validate` refuses both
    assert (config.epochs, config.steps) == (3, 7)


def test_folders_that_do_not_suit(folder, tmp_path, repository):
    with pytest.raises(UserError, match="has no two classes; fine-tuning needs labels: a folder for each class"):
        configs.load(f"{repository}/configs/finetune.py:data=folder:{folder / 'ant'}")
    (tmp_path / "one" / "all").mkdir(parents=True)
    for file in (folder / "ant").iterdir():
        (tmp_path / "one" / "all" / file.name).symlink_to(file)
    config = configs.load(f"{repository}/configs/own_images.py:data=folder:{tmp_path}/one")
    assert list(config.stages) == ["tokenizer", "pretrain"]  # one class is none
    for name in ("images", "annotations"):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "pairs" / name / "a.png")
    assert not own_images.is_small(f"folder:{tmp_path}/pairs")
    with pytest.raises(UserError, match="has label maps, for segmentation"):
        own_images.look_at(f"folder:{tmp_path}/pairs")


def test_help_without_a_folder(repository, capsys):
    with pytest.raises(SystemExit) as end:
        train.main([f"--config={repository}/configs/own_images.py", "--help"])
    printed = capsys.readouterr().out
    assert end.value.code == 0 and "The keys of the config cannot be listed: data is missing" in printed
