"""Runs that start from weights of other libraries: what is taken for what, imported once, told in one line."""

import shutil

import jax
import numpy as np
import pytest
from commands import command, refused
from PIL import Image
from tiny import config as tiny

import beit_jax
from beit_jax import config as configs
from beit_jax import foreign_weights
from beit_jax.convert.layouts import task_layout
from beit_jax.errors import UserError
from beit_jax.runtime.checkpoint_folder import find_checkpoint
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks import create_task
from beit_jax.training import checkpoint
from beit_jax.training.params import flatten

CONFIG = "configs/continue_pretraining.py"
pytestmark = pytest.mark.usefixtures("in_the_checkout")


def publish(folder, task="pretrain", format="hf"):
    """A model with random parameters, as another library has it; its parameters and config."""
    config = tiny(task)
    config.data.ops = config.data.eval_ops = ""
    with config.unlocked():
        config.preprocess = task_layout(task).default_preprocess(config.model.image_size)
    with jax.numpy_dtype_promotion("standard"):
        params = jax.device_get(run_once(create_task(config).init, jax.random.key(3)))
        beit_jax.save_pretrained(folder, params, config, format=format)
    return params, config


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """hf/, a pre-training; tokenizer/; images/ with two classes of 12 images."""
    root = tmp_path_factory.mktemp("published")
    publish(root / "hf")
    publish(root / "tokenizer", "tokenizer", "safetensors")
    random = np.random.default_rng(0)
    for number in range(24):
        folder = root / "images" / ("ant", "bee")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"{number}.png")
    (root / "empty").mkdir()
    return root


def test_what_is_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine" / "checkpoints" / "1" / "params").mkdir(parents=True)
    (tmp_path / "runs" / "other").mkdir()
    foreign = {
        "": False,
        "random": False,
        "stage:pretrain": False,
        "runs/mine": False,
        "runs/other": True,
        "runs/nothing": False,  # a folder `runs` is here
        "runs/nothing@main": True,
        "owner/name": True,
        "owner/name@v2": True,
        "owner/name/more": False,
    }
    assert {name: foreign_weights.needs_import(name) for name in foreign} == foreign
    foreign_weights.check_source("runs/mine", tmp_path)
    with pytest.raises(UserError, match=r"no such folder; .*, or runs/nothing@main if it is a hub id"):
        foreign_weights.check_source("runs/nothing", tmp_path)
    with pytest.raises(UserError, match=r"runs/other holds no checkpoint; expected a run"):
        foreign_weights.check_source("runs/other", tmp_path)


def test_the_folder_of_an_import_lies_in_the_workdir(tmp_path):
    names = ["owner/name", "owner/name@v2", "../../etc", "..", ".", "/", "a/" + "b" * 300, "\u00e9/..", "a//b", "a/b"]
    found = [foreign_weights.folder_of(name, tmp_path) for name in names]
    assert {folder.parent for folder in found} == {tmp_path / "imported"}
    assert len({folder.name for folder in found}) == len(names)
    assert all(len(folder.name) < 80 and folder.name.isascii() and folder.name[0] != "." for folder in found)


def test_weights_are_imported_once(tmp_path, capsys):
    params, config = publish(tmp_path / "hf")
    source = str(tmp_path / "hf")
    first, second = tiny("pretrain"), tiny("probe")
    first.init_from = second.encoder.init_from = source
    stages, folders = dict(first=first, second=second), {name: tmp_path / "run" / name for name in ("first", "second")}
    target = foreign_weights.folder_of(source, tmp_path / "run")
    target.with_name(f"{target.name}.part-1").mkdir(parents=True)  # of a start that was killed
    found = foreign_weights.import_sources(stages, folders, tmp_path / "run")
    assert list(target.parent.iterdir()) == [target]
    assert first.init_from == source  # config.json says what the user wrote
    assert found["first"].init_from == found["second"].encoder.init_from
    run = find_checkpoint(found["first"].init_from, tmp_path / "run")  # as a stage, so that the recipe can be moved
    loaded = checkpoint.load_params(run, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    jax.tree.map(np.testing.assert_array_equal, flatten(loaded), flatten(params))
    assert configs.from_json(checkpoint.load_config(run)).model.to_dict() == config.model.to_dict()
    told = capsys.readouterr().out.splitlines()
    assert "imported into" in told[0] and "imported before" in told[1]

    shutil.rmtree(tmp_path / "hf")
    foreign_weights.check_source(source, tmp_path / "run")
    assert foreign_weights.import_sources(stages, folders, tmp_path / "run") == found
    with pytest.raises(UserError, match="there is no such folder"):
        foreign_weights.check_source(source, tmp_path / "other")
    alone = foreign_weights.import_sources(dict(pretrain=first), dict(pretrain=tmp_path / "run"), tmp_path / "run")
    assert find_checkpoint(alone["pretrain"].init_from) == run  # a run that is no recipe names the folder

    (tmp_path / "late" / "checkpoints" / "4" / "params").mkdir(parents=True)
    foreign_weights.import_sources(dict(first=first), dict(first=tmp_path / "late"), tmp_path / "late")
    assert not (tmp_path / "late" / "imported").exists()  # it goes on from its own checkpoint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("data=folder:{root}/images", "init is missing; expected weights and a folder of images"),
        ("init={root}/hf", "data is missing; expected weights and a folder of images"),
        ("init={root}/nowhere,data=folder:{root}/images", "{root}/nowhere does not exist; expected a run"),
        (
            "init=owner/name,data=folder:{root}/images",
            "owner/name is not here; as a hub id: owner/name is not in",
        ),
        ("init={root}/empty,data=folder:{root}/images", "{root}/empty holds no checkpoint; expected a run"),
        ("init={root}/tokenizer,data=folder:{root}/images", "is a model of the task 'tokenizer'; expected an encoder"),
        ("init={root}/hf,data=folder:{root}/empty", "{root}/empty holds no images"),
        ("init={root}/hf,data=digits", "data='digits'; expected a folder of images"),
        (
            "init={root}/hf,data=folder:{root}/images,channels=4",
            "is for images of 3 channels, and channels=4: add inflate",
        ),
        (
            "init={root}/hf,data=folder:{root}/images,image_size=30",
            "model.image_size=30 is not divisible by the patch size 4",
        ),
        (
            "init={root}/hf,data=folder:{root}/images,keep_head",
            "keep_head with tokenizer=kmeans: the head of the weights",
        ),
        ("init={root}/hf,data=folder:{root}/images,tokenizer={root}/hf", "the task 'pretrain'; expected a tokenizer"),
        (
            "init={root}/hf,data=folder:{root}/images,codes=1000",
            "model.vocab=1000 codes, which k-means makes of the 8 x 16",
        ),
    ],
)
def test_wrong_input_of_a_continuation(published, tmp_path, monkeypatch, arguments, message):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    file = f"{CONFIG}:{arguments.format(root=published)}"
    assert message.format(root=published) in refused([f"--config={file}", f"--workdir={tmp_path}/run"])
    assert not (tmp_path / "run").exists()


def test_weights_that_cannot_be_read(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"nothing")
    call = command("finetune", tmp_path / "run", f"--config.init_from={tmp_path}/a.bin")
    assert f"init_from={tmp_path}/a.bin cannot be read" in refused(call)
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_stages_of_a_continuation(published, repository):
    def load(arguments):
        source = f"init={published}/hf,data=folder:{published}/images"
        found = configs.load(f"{repository}/{CONFIG}:{source}{arguments}")
        configs.validate(found)
        return found

    config = load(",image_size=24,codes=16,epochs=5")
    assert list(config.stages) == ["tokenizer", "before", "pretrain", "after"]
    assert config.pretrain.model.variant == "Micro/4" and config.pretrain.model.image_size == 24
    assert config.pretrain.model.norm_eps == config.before.model.norm_eps == 1e-6
    assert config.pretrain.init_new == ("^lm_head/",) and config.pretrain.steps == round(5 * 22 / 8)
    before, after = (configs.flatten(config[name]) for name in ("before", "after"))
    assert {key for key in before if before[key] != after[key]} == {"encoder.init_from"}
    given = load(f",tokenizer={published}/tokenizer,keep_head,flip")
    assert list(given.stages) == ["before", "pretrain", "after"]
    assert given.pretrain.tokenizer.kind == "dvae" and given.pretrain.init_new == ()
    assert given.pretrain.model.image_size == 16 and "|flip_lr|" in given.pretrain.data.ops
    inflated = load(",channels=4,inflate=average,statistics=inception,codes=16")
    found = [inflated[name].inflate for name in ("before", "pretrain", "after")]
    assert found == ["average", "average", ""]
    one_class = f"{repository}/{CONFIG}:init={published}/hf,data=folder:{published}/images/ant,codes=16"
    assert list(configs.load(one_class).stages) == ["tokenizer", "pretrain"]
