"""Sizes are given once: ops name them, and a tokenizer's sizes are those of its run."""

import re
from pathlib import Path

import jax
import pytest
from tiny import DVAE
from tiny import config as tiny_config

from beit_jax import config as configs
from beit_jax import evaluate, overview
from beit_jax.benchmarks import program
from beit_jax.config.op_sizes import fill_in_sizes, short_side
from beit_jax.convert import preprocessing
from beit_jax.errors import UserError
from beit_jax.experiment import Experiment
from beit_jax.experiment_config import complete
from beit_jax.experiment_tokenizer import fill_in_tokenizer
from beit_jax.tasks import create_task
from beit_jax.training import checkpoint


def pretrain(**keys):
    config = configs.defaults("pretrain")
    config.steps, config.tokenizer.init_from = 10, "random"
    config.data.ops = (
        "decode|two_views(image_size, tokenizer_size, 0.2, scale_max=1.0)|blockwise_mask(num_masked, min_block, grid)"
    )
    config.data.eval_ops = "decode|resize_small(short_side)|central_crop(image_size)|pad_to(2 * image_size, 3 * grid)"
    config.update_from_flattened_dict(keys)
    return config


@pytest.mark.parametrize(
    ("keys", "ops", "eval_ops"),
    [
        (
            {},
            "two_views(224, 112, 0.2, scale_max=1.0) | blockwise_mask(75, 16, 14)",
            "resize_small(256) | central_crop(224) | pad_to(448, 42)",
        ),
        (
            {"model.image_size": 64},
            "two_views(64, 32, 0.2, scale_max=1.0) | blockwise_mask(6, 1, 4)",
            "resize_small(73) | central_crop(64) | pad_to(128, 12)",
        ),
        (
            {"model.image_size": 384, "model.variant": "B/8", "num_masked": 900},
            "two_views(384, 384, 0.2, scale_max=1.0) | blockwise_mask(900, 188, 48)",
            "resize_small(384) | central_crop(384) | pad_to(768, 144)",
        ),
        (
            {"model.image_size": 112, "loss_on": "all"},  # the loss counts all 49 patches, and masks hide 19
            "two_views(112, 56, 0.2, scale_max=1.0) | blockwise_mask(19, 4, 7)",
            "resize_small(128) | central_crop(112) | pad_to(224, 21)",
        ),
        (
            {"model.image_size": (64, 128)},
            "two_views((64, 128), (32, 64), 0.2, scale_max=1.0) | blockwise_mask(12, 3, (4, 8))",
            "resize_small((73, 146)) | central_crop((64, 128)) | pad_to((128, 256), (12, 24))",
        ),
    ],
)
def test_sizes_follow_from_other_keys(keys, ops, eval_ops):
    config = pretrain(**keys)
    configs.validate(config)
    filled = fill_in_sizes(config)
    assert filled.data.ops == f"decode | {ops}" and filled.data.eval_ops == f"decode | {eval_ops}"
    assert "image_size" in config.data.ops  # the config itself keeps the names


def test_official_evaluation_sizes():
    assert [short_side(size) for size in (32, 224, 256, 384, 512)] == [36, 256, 292, 384, 512]


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        (
            "decode|resize(imagesize)",
            "data.ops names a size 'imagesize', which the config does not have; did you mean ",
        ),
        ("decode|resize(x)", "the sizes are image_size, short_side, grid, tokenizer_size, num_masked, min_block"),
        ("decode|resize(canvas_long)", "names a size 'canvas_long', which the config does not have"),
    ],
)
def test_unknown_sizes(ops, message):
    with pytest.raises(UserError, match=re.escape(message)):
        configs.validate(pretrain(**{"data.ops": ops}))


def test_ops_without_names_stay_as_they_are():
    for ops in ("decode|flip_lr|normalize('imagenet')", "decode|resize( 16 )", "decode|(", "decode|a('grid')"):
        assert fill_in_sizes(pretrain(**{"data.ops": ops})).data.ops == ops


CONFIGS = ("tokenizer", "pretrain", "pretrain:fast", "finetune", "finetune:recipe=higher", "probe", "probe:cache")


@pytest.mark.parametrize("name", CONFIGS)
def test_one_size_is_enough(name, in_the_checkout):
    """`--config.model.image_size=64` on digits: what the ops make is what the task takes."""
    file, _, argument = name.partition(":")
    config = configs.load(f"configs/{file}.py:{argument}")
    config.data.source, config.data.eval_split, config.batch_size = "digits", "test", 8
    config.model.image_size = 64
    for section in (config.get("tokenizer", {}), config.get("encoder", {})):
        if "init_from" in section:
            section.init_from = "random"
    configs.validate(config)
    experiment = Experiment(complete(config), Path("unused"), create_task(complete(config)))
    experiment.data.check_ops("")
    experiment.data.check_ops("eval_")


def test_from_pretrained_reads_sizes_of_a_run():
    config = configs.defaults("classify")
    config.data.eval_ops = "decode|resize_small(short_side)|central_crop(image_size)|normalize('imagenet')"
    section = preprocessing.from_ops(fill_in_sizes(config).data.eval_ops, 224)
    assert (section.resize, section.size, section.keep_ratio) == (256, 224, True)


@pytest.fixture
def trained(tmp_path):
    """The folder of a tokenizer's run, with sizes that are no defaults."""
    config = tiny_config("tokenizer")
    task = create_task(config)
    checkpoint.save_params(tmp_path / "tokenizer", task.init(jax.random.key(0)), configs.to_json(config))
    return tmp_path / "tokenizer"


def test_tokenizer_has_the_sizes_of_its_run(trained, tmp_path):
    config = pretrain(**{"tokenizer.init_from": str(trained), "model.image_size": 64})
    filled = fill_in_tokenizer(config, tmp_path / "pretrain", {})
    assert {name: filled.tokenizer[name] for name in DVAE} == DVAE
    assert fill_in_sizes(filled).data.ops.startswith("decode | two_views(64, 8,")  # 4 x 4 patches, tokens of 2 pixels
    assert config.tokenizer.vocab == 8192  # the config given is not changed


def test_tokenizer_of_a_stage_that_has_not_run(tmp_path):
    config = pretrain(**{"tokenizer.init_from": "stage:first"})
    filled = fill_in_tokenizer(config, tmp_path / "pretrain", {"stage:first": tiny_config("tokenizer")})
    assert {name: filled.tokenizer[name] for name in DVAE} == DVAE


def test_a_size_that_the_run_does_not_have(trained, tmp_path):
    config = pretrain(**{"tokenizer.init_from": str(trained), "tokenizer.vocab": 64})
    with pytest.raises(UserError, match=r"tokenizer.vocab=64, but .*tokenizer has 16; leave the key out"):
        fill_in_tokenizer(config, tmp_path / "pretrain", {})


def test_a_run_that_is_no_tokenizer(tmp_path):
    config = pretrain(**{"tokenizer.init_from": "stage:first"})
    with pytest.raises(UserError, match="stage:first is a run of the task 'classify'; expected a tokenizer"):
        fill_in_tokenizer(config, tmp_path / "pretrain", {"stage:first": tiny_config("classify")})


def test_benchmark_of_a_stage(in_the_checkout):
    config = program.complete_without_data(configs.load("configs/quickstart.py"), "pretrain", "float32")
    assert (config.tokenizer.vocab, config.tokenizer.init_from) == (32, "random")


def test_evaluation_with_a_config_that_names_no_sizes(trained, tmp_path, in_the_checkout, capsys):
    """`--config` of a pre-training, whose tokenizer has the sizes of its run."""
    config = configs.load("configs/pretrain.py:runlocal")
    config.update_from_flattened_dict({f"tokenizer.{name}": value for name, value in DVAE.items()})
    config.tokenizer.init_from, config.batch_size = str(trained), 64
    params = create_task(config).init(jax.random.key(0))
    checkpoint.save_params(tmp_path / "pretrain", params, configs.to_json(config))
    config.update_from_flattened_dict(
        {f"tokenizer.{name}": configs.defaults("pretrain").tokenizer[name] for name in DVAE}
    )
    (tmp_path / "config.json").write_text(configs.to_json(config))
    evaluate.main([f"--checkpoint={tmp_path}/pretrain", f"--config={tmp_path}/config.json"])
    assert '"mlm_acc"' in capsys.readouterr().out


def test_a_checkpoint_of_another_encoder(tmp_path, in_the_checkout):
    made = tiny_config("classify")
    checkpoint.save_params(tmp_path / "old", create_task(made).init(jax.random.key(0)), configs.to_json(made))
    config = configs.load("configs/finetune.py:runlocal")
    config.model.variant, config.init_from = "Nano/4", str(tmp_path / "old")
    with pytest.raises(UserError, match=r"its encoder is Micro/4, and that of the config is Nano/4; give .*variant="):
        Experiment.build(config, tmp_path / "run")


def test_a_tokenizer_without_a_config(tmp_path):
    params = create_task(tiny_config("tokenizer")).init(jax.random.key(0))
    checkpoint.save_params(tmp_path / "tokenizer", params, "")
    config = pretrain(**{"tokenizer.init_from": str(tmp_path / "tokenizer")})
    with pytest.raises(UserError, match="does not hold the config of a run"):
        fill_in_tokenizer(config, tmp_path / "pretrain", {})


def test_the_table_of_a_run_guesses_the_pixels_of_rectangles():
    guesses = []
    for size in (32, (16, 48), 128, (96, 192)):
        config = pretrain(**{"model.image_size": size, "data.source": "imagenet2012"})
        guesses.append(overview._pixels(config))
    assert guesses == [32 * 32, 16 * 48, overview.PHOTOGRAPH, overview.PHOTOGRAPH]
