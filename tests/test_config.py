import pytest

from beit_jax import config as configs
from beit_jax.errors import UserError
from beit_jax.validate import validate


def valid(task="pretrain"):
    config = configs.defaults(task)
    config.steps = 10
    config.data.ops = config.data.eval_ops = "decode"
    if task == "pretrain":
        config.tokenizer.init_from = "random"
    if task == "probe":
        config.encoder.init_from = "random"
    return config


@pytest.mark.parametrize("task", configs.TASKS)
def test_defaults_are_valid_and_survive_json(task):
    config = valid(task)
    validate(config)
    again = configs.from_json(configs.to_json(config))
    assert configs.flatten(again) == configs.flatten(config)
    validate(again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.image_size": 225}, "model.image_size=225 is not divisible by the patch size 16"),
        ({"tokenizer.image_size": 128}, "tokenizer's grid is 16x16 .* patch grid is 14x14 .* tokenizer.image_size=112"),
        ({"tokenizer.image_size": 111}, "not divisible by the tokenizer's stride 8"),
        ({"data.label_fraction": 0.0}, r"data\.label_fraction=0.0; expected above 0 and at most 1"),
        ({"data.label_fraction": 0.5, "data.labels_per_class": 3}, "give one of them, and not both"),
        ({"num_masked": 197}, "num_masked=197; expected between 1 and the 196 patches"),
        ({"tokenizer.init_from": ""}, "needs a trained tokenizer"),
        ({"epochs": 3.0}, "epochs=3 and steps=10: give one"),
        ({"batch_size": 0}, "batch_size=0; expected at least 1"),
        ({"optimizer.accumulate": 3}, "not divisible by optimizer.accumulate=3"),
        ({"optimizer.layer_decay": 1.5}, "layer_decay=1.5; expected above 0 and at most 1"),
        ({"optimizer.lr": float("nan")}, "optimizer.lr=nan"),
        ({"model.drop_path": 1.0}, "model.drop_path=1.0; expected at least 0 and below 1"),
        ({"model.relative_position": "both"}, "expected one of none, shared, per_block"),
        ({"model.variant": "Q/16"}, "Q/16"),
        ({"data.ops": ""}, "data.ops is empty"),
        ({"model.remat": "foo"}, "model.remat='foo'; expected one of auto, none, full, dots_saveable"),
        ({"model.unroll": 0}, "model.unroll=0; expected at least 1"),
        ({"optimizer.eps": 0.0}, "optimizer.eps=0.0; expected above 0"),
        ({"mesh.data": 0}, "mesh.data=0; expected at least 1, or -1"),
        ({"mesh.fsdp": -2}, "mesh.fsdp=-2; expected at least 1, or -1"),
        ({"init_fresh": ("(",)}, "init_fresh holds '\\(', which is no regular expression"),
        ({"init_drop": (3,)}, "init_drop holds 3, which is no regular expression"),
        ({"init_from": "gs://bucket/run"}, "init_from='gs://bucket/run' is a URL; expected a folder"),
        ({"tokenizer.init_from": "gs://bucket/run"}, "tokenizer.init_from='gs://bucket/run' is a URL"),
        ({"data.shuffle_buffer": 0}, "data.shuffle_buffer=0; expected at least 1"),
    ],
)
def test_impossible_values_are_one_line(changes, message):
    config = valid()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message) as error:
        validate(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("classify", {"label_smoothing": 1.0}, "label_smoothing=1.0; expected at least 0 and below 1"),
        ("classify", {"batch_size": 33, "mixup": 0.8}, "makes batches of 33 images; mixup and cutmix mix pairs"),
        ("classify", {"mix_switch": 1.5}, "mix_switch=1.5; expected between 0 and 1"),
        ("classify", {"cutmix": -1.0}, "cutmix=-1.0; expected at least 0"),
        ("classify", {"model.num_classes": -1}, "model.num_classes=-1; expected at least 0"),
        ("classify", {"model.init_scale": -1.0}, "model.init_scale=-1.0; expected at least 0"),
        ("tokenizer", {"elbo.temperature_end": 0.0}, "elbo.temperature_end=0.0; expected above 0"),
        ("tokenizer", {"elbo.kl_steps": -1}, "elbo.kl_steps=-1; expected at least 0"),
        ("tokenizer", {"model.groups": 0}, "model.groups=0; expected at least 1"),
    ],
)
def test_impossible_values_of_a_task(task, changes, message):
    config = valid(task)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        validate(config)


def test_a_stage_s_free_keys_are_those_of_its_own():
    assert configs.is_free("mesh.data", ()) and configs.is_free("pretrain.mesh.data", ("pretrain",))
    assert not configs.is_free("keep.optimizer.lr", ("keep",)) and not configs.is_free("model.keep", ())


def test_unknown_key_missing_key_wrong_type():
    with pytest.raises(AttributeError, match="lr"):
        configs.defaults("pretrain").optimizer.lrr = 1.0
    config = valid()
    with config.unlocked():
        config.optimizer.learning_rate = 1.0
    with pytest.raises(UserError, match=r"unknown config key 'optimizer.learning_rate'"):
        validate(config)
    config = valid()
    with config.unlocked():
        del config.optimizer.lr
    with pytest.raises(UserError, match=r"'optimizer.lr' is missing"):
        validate(config)
    config = valid()
    with config.ignore_type():
        config.batch_size = "64"
    with pytest.raises(UserError, match="batch_size='64' is str; expected int"):
        validate(config)


def test_unknown_task():
    with pytest.raises(UserError, match="'detect' is unknown; expected one of tokenizer, pretrain, classify"):
        configs.defaults("detect")


def test_recipe_stages_refer_backwards():
    first, second = valid("tokenizer"), valid("pretrain")
    second.tokenizer.init_from = "stage:tokenizer"
    validate(configs.recipe(tokenizer=first, pretrain=second))
    with pytest.raises(
        UserError, match=r"stage pretrain: tokenizer\.init_from='stage:tokenizer' names no earlier stage"
    ):
        validate(configs.recipe(pretrain=second, tokenizer=first))


def test_arguments_of_configs():
    arg = configs.parse_arg("variant=L/16,epochs=3,runlocal", variant="B/16", epochs=1.0, runlocal=False)
    assert (arg.variant, arg.epochs, arg.runlocal) == ("L/16", 3.0, True)
    with pytest.raises(UserError, match="'size' is unknown; expected one of variant"):
        configs.parse_arg("size=1", variant="B/16")
    with pytest.raises(UserError, match="epochs='x' is no float"):
        configs.parse_arg("epochs=x", epochs=1.0)
    with pytest.raises(UserError, match="'variant' has no value"):
        configs.parse_arg("variant", variant="B/16")


def test_a_recipe_without_stages():
    with pytest.raises(UserError, match="a recipe without stages"):
        configs.recipe()


def test_the_line_of_a_mistake_is_named_by_a_relative_path_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("def get_config(arg):\n    return 1 / 0")
    with pytest.raises(UserError, match=r"config broken\.py:2: ZeroDivisionError"):
        configs.load("broken.py")


def test_files_that_are_no_configs(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        configs.load(str(tmp_path / "none.py"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="defines no get_config"):
        configs.load(str(tmp_path / "empty.py"))
    (tmp_path / "broken.py").write_text("def get_config(:")
    for text, message in {
        "def get_config(:": "broken.py:1: SyntaxError: invalid syntax",
        "\nimport no_such_module": "broken.py:2: ModuleNotFoundError: No module named 'no_such_module'",
        "def get_config(arg):\n    return 1 / 0": "broken.py:2: ZeroDivisionError: division by zero",
        "from beit_jax.config import *\ndef get_config(arg):\n    c = defaults('tokenizer')\n    c.lrr = 1": (
            "broken.py:4: AttributeError: .*lrr"
        ),
    }.items():
        (tmp_path / "broken.py").write_text(text)
        with pytest.raises(UserError, match=message) as error:
            configs.load(str(tmp_path / "broken.py"))
        assert "\n" not in str(error.value)
