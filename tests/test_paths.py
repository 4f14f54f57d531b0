"""Paths that users give: with `~`, with commas, not in UTF-8, or in the folder of the images."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from commands import CONFIGS, refused
from PIL import Image
from tiny import config as tiny

from beit_jax import cli, evaluate, local_files, shard_dataset, tokenize_dataset, train
from beit_jax import config as configs
from beit_jax.convert import locate
from beit_jax.data.sources import open_source
from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import write_text
from beit_jax.visualize import images as pictures

pytestmark = pytest.mark.usefixtures("in_the_checkout")
NOT_UTF_8 = "caf\udce9"


def make_images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(os.fsencode(root / name), "PNG")
    return root


@pytest.fixture
def photos(tmp_path):
    return make_images(tmp_path / "photos", "a/1.png", "b/2.png")


def test_a_run_within_the_images_is_refused(photos, tmp_path):
    """By each command that writes a folder, before anything is written."""
    source, inside = f"--config.data.source=folder:{photos}", photos / "runs" / "x"
    splits = ["--config.data.split=train", "--config.data.eval_split=train"]
    (tmp_path / "link").symlink_to(photos)
    for program, arguments in (
        (train, [f"--config={CONFIGS['finetune']}", source, *splits, f"--workdir={inside}"]),
        (train, [f"--config={CONFIGS['finetune']}", source, *splits, f"--workdir={tmp_path}/link/x"]),
        (train, [f"--config=configs/own_images.py:data=folder:{make_images(photos, *many())}", f"--workdir={inside}"]),
        (tokenize_dataset, [f"--config={CONFIGS['pretrain']}", source, *splits, f"--out={inside}"]),
        (shard_dataset, [f"--images={photos}", f"--out={inside}"]),
    ):
        message = refused(arguments, program)
        assert "lies in the folder of the images" in message and "choose another" in message
        assert not inside.exists() and not (photos / "x").exists()


def many():
    return [f"{name}/{number}.png" for name in "ab" for number in range(8)]


def test_pictures_of_an_evaluation_within_the_images(photos, monkeypatch):
    config = tiny("classify")
    config.data.source, config.data.eval_split = f"folder:{photos}", "train"
    monkeypatch.setattr(evaluate.cli, "set_keys", lambda *args: None)
    monkeypatch.setattr("beit_jax.convert.opening.open_checkpoint", lambda *args: SimpleNamespace(config=config))
    args = SimpleNamespace(config="", checkpoint="x", pictures=f"{photos}/pictures")
    with pytest.raises(UserError, match=r"--pictures=.*photos/pictures lies in the folder of the images"):
        evaluate._open(None, args, [])


def test_tasks_that_score_classes_need_two(tmp_path):
    flat = make_images(tmp_path / "flat", *(f"{number}.png" for number in range(9)))
    for task, keys, needs in (
        ("classify", {}, True),
        ("probe", {}, True),
        ("pretrain", {"evals.kinds": "knn"}, True),
        ("pretrain", {"evals.kinds": "knn,rankme,probe"}, True),
        ("pretrain", {"evals.kinds": "rankme"}, False),
        ("pretrain", {}, False),
        ("tokenizer", {}, False),
    ):
        config = tiny(task)
        config.data.update(dict(source=f"folder:{flat}", split="train[:5]", eval_split="train[5:]"))
        configs.override(config, [f"--config.{key}={value}" for key, value in keys.items()])
        if not needs:
            local_files.check_data(config)
            continue
        with pytest.raises(UserError, match=r"data.source=folder:.*flat has no class folders, and so no labels"):
            local_files.check_data(config)


def test_the_home_folder(tmp_path, monkeypatch):
    """A `~` that the shell leaves alone makes no folder of that name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my.py").write_text(
        "from beit_jax.config import defaults\nget_config = lambda arg: defaults('pretrain')"
    )
    assert configs.load("~/my.py").task == "pretrain"
    (tmp_path / "config.json").write_text(configs.to_json(tiny("classify")))
    assert configs.load("~/config.json").task == "classify"
    assert cli.required_folder("workdir", "~/runs", "") == tmp_path / "runs"
    pictures.write_pictures("~/pictures", [("x", np.zeros((4, 4, 3), np.uint8))])
    assert (tmp_path / "pictures" / "x.png").is_file()
    with pytest.raises(UserError, match=f"cifar10 is not prepared in {tmp_path}/sets"):
        open_source.open_source("cifar10", "~/sets", "train", 1)


def test_commas_in_config_arguments(tmp_path):
    folder = make_images(tmp_path / "cats, dogs", *many())
    arg = str(folder).replace(",", "\\,")
    config = configs.load(f"configs/own_images.py:data=folder:{arg},seeds=1")
    assert config.pretrain.data.source == f"folder:{folder}" and "from_beit_seed0" in config
    with pytest.raises(UserError, match=r"A comma ends the value of data: .* such as 'FILE.py:data=a\\,b'"):
        configs.load(f"configs/own_images.py:data=folder:{folder}")
    assert configs.parse_arg(r"a=x\,y,b=\,", a="", b="").to_dict() == {"a": "x,y", "b": ","}


def test_paths_that_are_not_utf_8(tmp_path):
    """Libraries cannot write there; images can be read, and every text that names them can be written."""
    folder = tmp_path / NOT_UTF_8
    message = r"caf\xe9 is not written in UTF-8"
    assert message in refused([f"--config={CONFIGS['tokenizer']}", f"--workdir={folder}"])
    assert message in refused([f"--config={CONFIGS['pretrain']}", f"--out={folder}"], tokenize_dataset)
    make_images(folder, "a/1.png", "b/2.png")
    assert message in refused([f"--images={folder}", f"--out={folder}x", "--name=x"], shard_dataset).replace("9x", "9")
    for check in (locate.check_name, lambda path: locate.check_target(path / "x", "hf")):
        with pytest.raises(UserError, match="is not written in UTF-8"):
            check(folder)
    config = tiny("classify")
    config.init_from, config.data.data_dir, config.data.source = str(folder), str(folder), "cifar10"
    for check in (local_files.check_paths, local_files.check_data):
        with pytest.raises(UserError, match="is not written in UTF-8") as error:
            check(config)
        assert str(error.value).encode() and "\\xe9" in str(error.value)
    write_text(tmp_path / "table.txt", str(folder))
    assert (tmp_path / "table.txt").read_text().startswith(str(tmp_path))
    assert json.loads(configs.to_json(config))["init_from"] == str(folder)
