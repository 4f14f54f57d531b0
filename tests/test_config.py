import re

import pytest

from beit_jax import config as configs
from beit_jax.config import validate
from beit_jax.config.durations import in_steps, parse_schedule
from beit_jax.config.keys import flatten_keys
from beit_jax.config.schema import declared_keys
from beit_jax.errors import UserError


def valid(task="pretrain"):
    config = configs.defaults(task)
    config.steps = 10
    config.data.ops = config.data.eval_ops = "decode"
    if task == "pretrain":
        config.tokenizer.init_from = "random"
    if task == "probe":
        config.encoder.init_from = "random"
    return config


@pytest.mark.parametrize("task", configs.task_names())
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
        ({"data.labels": "0%"}, r"data\.labels='0%'; expected 'all', a percentage above 0 such as '10%', or a number"),
        ({"data.labels": "5"}, "data.labels='5'; expected 'all'"),
        ({"optimizer.warmup": "10"}, "optimizer.warmup='10'; expected a duration such as '10 epochs', '200 steps'"),
        ({"optimizer.warmup": "1.5 steps"}, "optimizer.warmup='1.5 steps'; expected a duration"),
        ({"optimizer.schedule": "step"}, "optimizer.schedule='step'; expected one of cosine, linear"),
        ({"optimizer.schedule": "cosine,"}, "optimizer.schedule='cosine,'; expected one of cosine, linear"),
        ({"optimizer.betas": (0.9,)}, "optimizer.betas=.0.9,.; expected two numbers"),
        ({"optimizer.betas": (0.9, 1.0)}, "optimizer.betas=.0.9, 1.0.; expected two numbers"),
        ({"tokenizer.kind": "vq"}, "the tokenizer kind 'vq' is unknown; expected one of dvae"),
        ({"num_masked": 197}, "num_masked=197; expected between 1 and the 196 patches"),
        ({"tokenizer.init_from": ""}, "needs a trained tokenizer"),
        ({"epochs": 3.0}, "epochs=3 and steps=10: give one"),
        ({"batch_size": 0}, "batch_size=0; expected at least 1"),
        ({"optimizer.accumulate": 3}, "not divisible by optimizer.accumulate=3"),
        ({"optimizer.layer_decay": 1.5}, "layer_decay=1.5; expected above 0 and at most 1"),
        ({"optimizer.lr": float("nan")}, "optimizer.lr=nan; expected a finite number, at least 0"),
        ({"seed": 2**31}, "seed=2147483648; expected at least 0 and below 2147483648"),
        ({"steps": 2**31}, "steps=2147483648; expected at most 2147483647"),
        ({"optimizer.warmup": "9" * 400 + " epochs"}, "expected a duration"),
        ({"model.drop_path": 1.0}, "model.drop_path=1.0; expected at least 0 and below 1"),
        ({"model.relative_position": "both"}, "expected one of none, shared, per_block"),
        ({"model.variant": "Q/16"}, "Q/16"),
        ({"data.ops": ""}, "data.ops is empty"),
        ({"model.remat": "foo"}, "model.remat='foo'; expected one of auto, none, full, dots_saveable"),
        ({"model.unroll": -1}, "model.unroll=-1; expected at least 0"),
        ({"mesh.data": 0}, "mesh.data=0; expected at least 1, or -1"),
        ({"mesh.fsdp": -2}, "mesh.fsdp=-2; expected at least 1, or -1"),
        ({"init_optional": ("(",)}, r"init_optional=\('\(',\); expected regular expressions, and '\(' is none"),
        ({"init_optional": (3,)}, "init_optional=.3,.; expected regular expressions, and 3 is none"),
        (
            {"init_from": "s3://bucket/run"},
            "init_from=s3://bucket/run is a URL; expected a folder, or a path in a bucket",
        ),
        (
            {"tokenizer.init_from": "s3://bucket/run"},
            "tokenizer.init_from=s3://bucket/run is a URL; expected a folder, or a path in a bucket",
        ),
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
        ("classify", {"cutmix": -1.0}, "cutmix=-1.0; expected at least 0"),
        ("segment", {"inference.ratios": (1e9,)}, r"ratios=\(1000000000.0,\) enlarge images to \d+ pixels; .* 65536"),
        (
            "segment",
            {"inference.short_side": 2**31 - 1},
            "short_side=2147483647; .* at most 65536",
        ),
        ("segment", {"model.image_size": 2**31 - 1}, "image_size=2147483647; .* at most 65536"),
        ("tokenizer", {"model.hidden": 3}, "model.hidden=3; expected at least 4"),
        ("classify", {"model.num_classes": -1}, "model.num_classes=-1; expected at least 0"),
        ("classify", {"model.init_scale": -1.0}, "model.init_scale=-1.0; expected at least 0"),
        ("tokenizer", {"loss.temperature_end": 0.0}, "loss.temperature_end=0.0; expected at least 1e-06"),
        ("tokenizer", {"loss.kl_warmup": "-1"}, "loss.kl_warmup='-1'; expected a duration such as '10 epochs'"),
        ("tokenizer", {"model.groups": 0}, "model.groups=0; expected at least 1"),
    ],
)
def test_impossible_values_of_a_task(task, changes, message):
    config = valid(task)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        validate(config)


def test_keys_that_change_no_number_may_differ_in_a_continuation():
    before, now = valid(), valid()
    now.mesh.data, now.log_every, now.tokens = 4, 7, "tokens"
    assert configs.differing_keys(before, now) == []
    now.optimizer.lr, now.model.variant = 1.0, "L/16"
    assert configs.differing_keys(before, now) == ["model.variant", "optimizer.lr"]
    before, now = (configs.recipe(keep=valid("tokenizer"), last=one) for one in (before, now))
    assert configs.differing_keys(before, now) == ["last.model.variant", "last.optimizer.lr"]
    now.keep.mesh.fsdp, now.keep.seed = 2, 3
    assert configs.differing_keys(before, now) == ["keep.seed", "last.model.variant", "last.optimizer.lr"]


@pytest.mark.parametrize("task", configs.task_names())
def test_every_key_has_help_and_there_are_few(task):
    keys = flatten_keys(configs.keys_of(task))
    assert all(key.help and len(key.help) < 120 and "\n" not in key.help for key in keys.values())
    assert len(keys) <= 78, len(keys)  # as many as the task with a teacher has
    text = configs.describe_keys(valid(task))
    assert all(f"--config.{name}=" in text for name in keys if name != "task")


def test_help_of_a_recipe_lists_the_keys_of_each_task_once():
    stages = dict(first=valid("tokenizer"), second=valid("pretrain"), third=valid("pretrain"))
    text = configs.describe_keys(configs.recipe(**stages))
    assert "stages first, second, third" in text and "--config.first.loss.kl_weight=6.6" in text
    assert "the stages third have the same keys" in text and "--config.third." not in text


def test_durations_and_schedules_in_steps():
    texts = ("10 epochs", "1.5 epochs", "1 epoch", "200 steps", "", "5%", "0.5 %", "0.001%", "0%")
    assert [in_steps(text, 50, 1000) for text in texts] == [500, 75, 50, 200, 0, 50, 5, 1, 0]
    assert parse_schedule("cosine", 50, 1000) == ("cosine", 0)
    assert parse_schedule("linear, 3 epochs", 50, 1000) == ("linear", 150)
    assert parse_schedule("cosine, 40%", 50, 1000) == ("cosine", 400)


def test_the_same_settings_for_another_task():
    config = valid()
    config.model.variant, config.optimizer.lr, config.num_masked = "S/16", 0.5, 60
    other = configs.with_task(config, "pretrain_pixels")
    assert (other.task, other.model.variant, other.optimizer.lr, other.num_masked) == (
        "pretrain_pixels",
        "S/16",
        0.5,
        60,
    )
    validate(other)


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
    with pytest.raises(
        UserError, match="the task 'detect' is unknown; expected one of tokenizer, pretrain, pretrain_pixels"
    ):
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


@pytest.mark.parametrize("task", configs.task_names())
def test_no_number_is_infinite(task):
    """Of every key that holds a number, or numbers."""
    keys = declared_keys(configs.defaults(task))
    numbers = [name for name, key in keys.items() if type(key.default) in (int, float, tuple)]
    assert len(numbers) > 20
    for name in numbers:
        for value in (float("nan"), float("inf"), -float("inf"), 10**400):
            given = (value,) * max(len(keys[name].default), 1) if isinstance(keys[name].default, tuple) else value
            with pytest.raises(UserError, match=f"{re.escape(name)}=.*; expected a finite number"):
                keys[name].validate(name, given)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optimizer.ema", 0.999999999, "optimizer.ema=0.999999999 is 1.0 in float32; expected at least 0 and below 1"),
        ("optimizer.betas", (0.9, 0.999999999), "expected two numbers, each at least 0 and below 1"),
        ("optimizer.lr", 1e39, "optimizer.lr=1e[+]39 is infinite in float32; expected 0, or a size between 1.2e-38"),
        ("mixup", 1e-46, "mixup=1e-46 is 0 in float32; expected 0"),
        ("model.norm_eps", 1e-30, "model.norm_eps=1e-30; expected at least 1e-20"),
    ],
)
def test_numbers_are_those_of_the_devices(name, value, message):
    key = declared_keys(configs.defaults("classify"))[name]
    with pytest.raises(UserError, match=message):
        key.validate(name, value)


def test_float32_takes_nothing_else_away():
    keys = declared_keys(configs.defaults("classify"))
    for name, value in (
        ("optimizer.ema", 0.99999),
        ("mixup", -0.0),
        ("optimizer.lr", 3.4e38),
        ("optimizer.lr", 1.2e-38),
    ):
        keys[name].validate(name, value)
