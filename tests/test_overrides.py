"""Keys that the command line sets, and what is said of those that do not exist."""

import pytest

from beit_jax import config as configs
from beit_jax.errors import UserError


def tokenizer():
    config = configs.defaults("tokenizer")
    config.steps, config.data.ops, config.data.eval_ops = 10, "decode", "decode"
    return config


def recipe():
    pretrain = configs.defaults("pretrain")
    pretrain.steps, pretrain.data.ops, pretrain.data.eval_ops = 10, "decode", "decode"
    pretrain.tokenizer.init_from = "stage:tokenizer"
    return configs.recipe(tokenizer=tokenizer(), pretrain=pretrain)


def refused(config, *arguments):
    with pytest.raises(UserError) as error:
        configs.override(config, [f"--config.{argument}" for argument in arguments])
    return error.value.lines


def test_values_are_read_in_the_type_of_their_key():
    config = configs.defaults("probe")
    arguments = ["batch_size=64", "optimizer.lr=1e-3", "epochs=3", "data.source=folder:a,b=c:d", "layers=(1, 3)"]
    configs.override(config, [f"--config.{argument}" for argument in (*arguments, "cache_features")])
    assert (config.batch_size, config.optimizer.lr, config.epochs) == (64, 1e-3, 3.0)
    assert type(config.epochs) is float and config.data.source == "folder:a,b=c:d"
    assert config.layers == (1, 3) and config.cache_features is True
    configs.override(config, ["--config.layers=9", "--config.cache_features=false", "--config.data.source="])
    assert (config.layers, config.cache_features, config.data.source) == ((9,), False, "")
    assert config.is_locked and config.optimizer.is_locked


def test_a_tuple_of_names_is_read_as_its_default_says_whatever_it_was():
    for made, stage in ((tokenizer(), lambda made: made), (recipe(), lambda made: made.pretrain)):
        for text, expected in {"wandb": ("wandb",), "mlflow,wandb": ("mlflow", "wandb"), "": ()}.items():
            configs.override(made, [f"--config.loggers={text}"])
            assert stage(made).loggers == expected
    made.pretrain.loggers, made.pretrain.epochs = ("wandb",), 3
    configs.override(made, ["--config.pretrain.loggers=mlflow", "--config.pretrain.epochs=0.5"])
    assert made.pretrain.loggers == ("mlflow",) and made.pretrain.epochs == 0.5


def test_a_value_may_be_an_argument_of_its_own():
    config = configs.defaults("probe")
    configs.override(
        config, ["--config.model.image_size", "64", "--config.mesh.data", "-1", "--config.cache_features", "true"]
    )
    assert (config.model.image_size, config.mesh.data, config.cache_features) == (64, -1, True)
    configs.override(config, ["--config.cache_features", "--config.seed=3"])
    assert (config.cache_features, config.seed) == (True, 3)
    assert refused(config, "seed")[0].startswith("--config.seed has no value; expected --config.seed=VALUE")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("batch_size=abc", "batch_size='abc' is str; expected int, a whole number"),
        ("batch_size=1e3", "batch_size='1e3' is str; expected int, a whole number"),
        ("epochs=1e", "epochs='1e' is str; expected float, a number"),
        ("epochs=nan", "epochs=nan; expected a finite number, at least 0"),
        ("epochs=-1e400", "epochs=-inf; expected a finite number, at least 0"),
        ("batch_size=1e400", "batch_size='1e400' is str; expected int, a whole number"),
        ("optimizer.betas=(0.9,1e400)", "optimizer.betas=(0.9, inf); expected a finite number"),
        ("optimizer.betas=0.9,", "optimizer.betas=(0.9,); expected two numbers"),
        ("optimizer.betas=high", "optimizer.betas='high' is str; expected tuple, such as (0.9, 0.999)"),
    ],
)
def test_a_value_of_another_type_is_refused_with_everything_else(argument, expected):
    config = tokenizer()
    configs.override(config, [f"--config.{argument}", "--config.model.vocab=0"])
    with pytest.raises(UserError) as error:
        configs.validate(config)
    first, second = sorted(error.value.lines, key=lambda line: "vocab" in line)
    assert first.startswith(expected) and second == "model.vocab=0; expected at least 1"


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("optimizer.learning_rate=1", "optimizer.lr"),
        ("optimizer.lrr=1", "optimizer.lr"),
        ("learning_rate=1", "optimizer.lr"),
        ("lr=1", "optimizer.lr"),
        ("bacth_size=3", "batch_size"),
        ("bs=3", "batch_size"),
        ("model.batch_size=3", "batch_size"),
        ("batch_size.x=3", "batch_size"),
        ("optimizer.betas[0]=3", "optimizer.betas"),
        ("data.surce=digits", "data.source"),
        ("modle.image_size=3", "model.image_size"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(argument, nearest):
    (line,) = refused(tokenizer(), argument)
    assert line == f"unknown config key '--config.{argument.partition('=')[0]}'; did you mean --config.{nearest}?"


def test_an_unknown_key_without_a_near_one():
    assert refused(tokenizer(), "zzz=3") == ("unknown config key '--config.zzz'; --help lists all keys",)


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("pretrain.bacth_size=3", ["unknown config key", "did you mean --config.pretrain.batch_size?"]),
        ("batch_size=4", ["names no stage", "stages are tokenizer, pretrain;", "mean --config.tokenizer.batch_size?"]),
        ("num_masked=4", ["names no stage", "did you mean --config.pretrain.num_masked?"]),
        ("pretrian.lr=4", ["names no stage", "did you mean --config.pretrain.optimizer.lr?"]),
        ("zzz=4", ["names no stage: this is a recipe, whose stages are tokenizer, pretrain"]),
        ("pretrain=4", ["--config.pretrain is a stage, not a key"]),
        (
            "pretrain.evals=4",
            ["--config.pretrain.evals is a section", "keys are --config.pretrain.evals.images, --con"],
        ),
    ],
)
def test_unknown_keys_of_a_recipe(argument, parts):
    (line,) = refused(recipe(), argument)
    assert all(part in line for part in parts), line


def test_a_section_is_no_key():
    assert refused(tokenizer(), "mesh=3") == (
        "--config.mesh is a section, not a key; its keys are --config.mesh.data, --config.mesh.fsdp, "
        "--config.mesh.slices, --config.mesh.tensor",
    )


def test_of_a_key_given_twice_the_last_value_counts(caplog):
    config = tokenizer()
    configs.override(config, ["--config.seed=1", "--config.steps=7", "--config.steps=7", "--config.seed=2"])
    assert (config.seed, config.steps) == (2, 7)
    assert caplog.messages == ["--config.seed is given twice, as '1' and '2'; the last one counts"]


def test_what_is_right_is_applied_beside_mistakes():
    config = tokenizer()
    assert len(refused(config, "seeds=1", "steps=7", "stps=8")) == 2
    assert config.steps == 7


def test_arguments_of_config_files_name_the_nearest_one():
    def lines(arg, **known):
        with pytest.raises(UserError) as error:
            configs.parse_arg(arg, **known)
        return error.value.lines

    known = dict(variant="B/16", data="digits", epochs=1.0)
    first, second = lines("varient=S/16,epochs=x", **known)
    assert first.endswith("expected one of variant, data, epochs; did you mean variant?")
    assert second == "config argument epochs='x' is no float; its default is 1.0"
    for text in ("nan", "inf", "-inf", "1e400", "9" * 400):
        assert lines(f"epochs={text}", **known) == (
            f"config argument epochs={text!r} is no finite number; its default is 1.0",
        )
    (comma,) = lines("data=folder:a,b/c", **known)
    assert "'b/c' is unknown" in comma and "A comma ends the value of data" in comma and "data=a\\,b" in comma
    assert configs.parse_arg("data=folder:my pics/x=y:z", **known).data == "folder:my pics/x=y:z"


def test_all_mistakes_of_all_stages():
    config = recipe()
    for stage in ("tokenizer", "pretrain"):
        config[stage].optimizer.lr, config[stage].epochs = -1.0, 2.0
    config.pretrain.model.image_size = 100
    with pytest.raises(UserError) as error:
        configs.validate(config)
    assert error.value.lines == ("stages tokenizer, pretrain: optimizer.lr=-1.0; expected at least 0",)
    for stage in ("tokenizer", "pretrain"):
        config[stage].optimizer.lr = 1.0
    with pytest.raises(UserError) as error:  # values are compared with each other where each of them is right
        configs.validate(config)
    epochs, patches = error.value.lines
    assert epochs == "stages tokenizer, pretrain: epochs=2 and steps=10: give one of them, and not both"
    assert patches.startswith("stage pretrain: model.image_size=100 is not divisible by the patch size 16")
    assert str(error.value) == f"2 things are wrong:\n  {epochs}\n  {patches}"


def test_mistakes_of_one_task_are_told_together():
    config = configs.defaults("pretrain")
    config.steps, config.data.ops, config.num_masked = 10, "decode", 1000
    with pytest.raises(UserError) as error:
        configs.validate(config)
    assert [line.partition(" ")[0] for line in error.value.lines] == [
        "data.eval_ops",
        "num_masked=1000;",
        "tokenizer.init_from",
    ]
