"""The teacher of a config has the sizes of the run that it names."""

import jax
import numpy as np
import pytest
import tiny
from beit_references import random_parameters
from ml_collections import ConfigDict

from beit_jax import tasks
from beit_jax.config import teacher as keys
from beit_jax.convert.teachers import save_teacher
from beit_jax.errors import UserError
from beit_jax.experiment_teacher import fill_in_teacher, fit_tokenizer_to_teacher, of_run
from beit_jax.runtime.checkpoint_folder import find_checkpoint
from beit_jax.tasks.teachers import create_teacher
from beit_jax.training import checkpoint
from beit_jax.training.params import merge

CLIP = dict(kind="clip", variant="32x2x4/8", image_size=16, projection=24, gelu="exact")
STAGE = "stage:pretrain"


def with_teacher(**settings):
    data = tiny.config("vqkd").data
    return ConfigDict({"task": "tokenizer", "teacher": keys.section(**settings), "data": data}).lock()


def pretraining(**model):
    config = tiny.config("pretrain")
    config.data.eval_ops = config.data.ops = "decode|normalize('imagenet')"
    config.model.update(model)
    return config


def test_a_converted_teacher(tmp_path):
    teacher = create_teacher(keys.section(**CLIP))
    params = random_parameters(jax.eval_shape(teacher.init, jax.random.key(0)))
    save_teacher(tmp_path / "clip", teacher, params)
    before = with_teacher(path=str(tmp_path / "clip"))
    filled = fill_in_teacher(before, tmp_path / "run", {}).teacher
    assert all(filled[name] == value for name, value in CLIP.items()) and before.teacher.variant == "B/16"
    # A stage's folder lies beside the run's own.
    again = fill_in_teacher(with_teacher(path="stage:clip"), tmp_path / "run", {}).teacher
    assert again.variant == "32x2x4/8"
    # What a frozen part of a task does: shapes from `init`, arrays from the run.
    frozen = create_teacher(filled)
    loaded = checkpoint.load_params(find_checkpoint(filled.path), jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    merged = merge(jax.eval_shape(frozen.init, jax.random.key(0)), loaded, ignored=frozen.ignored)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    with pytest.raises(
        UserError, match=r"teacher.variant='S/16', but teacher.path=.* has '32x2x4/8'; leave the key out"
    ):
        fill_in_teacher(with_teacher(path=str(tmp_path / "clip"), variant="S/16"), tmp_path / "run", {})
    with pytest.raises(UserError, match=r"is a teacher of the kind 'clip'; expected 'dino'"):
        fill_in_teacher(with_teacher(path=str(tmp_path / "clip"), kind="dino"), tmp_path / "run", {})


def test_a_stage_that_has_not_run_yet(tmp_path):
    config = with_teacher(kind="encoder", path=STAGE, layer=1)
    stage = pretraining(relative_position="per_block", norm_eps=1e-5)
    filled = fill_in_teacher(config, tmp_path / "tokenizer", {STAGE: stage}).teacher
    assert (filled.variant, filled.image_size, filled.layer) == ("Micro/4", 16, 1)
    assert (filled.relative_position, filled.norm_eps, filled.statistics) == ("per_block", 1e-5, "imagenet")
    teacher = create_teacher(filled)
    assert teacher.statistics[0] == (0.485, 0.456, 0.406)
    run = jax.eval_shape(tasks.create_task(stage).init, jax.random.key(0))
    shapes = jax.eval_shape(teacher.init, jax.random.key(0))
    assert jax.tree.map(np.shape, merge(shapes, run, ignored=teacher.ignored)) == jax.tree.map(np.shape, shapes)
    with pytest.raises(UserError, match=r"teacher.layer=3; expected at most 2, the depth of the encoder"):
        fill_in_teacher(with_teacher(kind="encoder", path=STAGE, layer=3), tmp_path / "tokenizer", {STAGE: stage})


def test_a_teacher_of_rectangles_and_of_other_channels(tmp_path):
    stage = pretraining(image_size=(16, 32))
    stage.data.channels, stage.data.eval_ops = 13, "decode|normalize('inception')"
    stage.data.ops = stage.data.eval_ops
    config = with_teacher(kind="encoder", path=STAGE)
    filled = fill_in_teacher(config, tmp_path / "tokenizer", {STAGE: stage}).teacher
    assert filled.image_size == (16, 32)
    config = tiny.config("vqkd")
    config.teacher = filled
    config.data.channels = 13
    assert fit_tokenizer_to_teacher(config).model.target_width == 32
    for kind, channels, words in (("clip", 13, "a CLIP, which sees"), ("encoder", 4, "for images of other channels")):
        config.data.channels, config.teacher.kind = channels, kind
        config.teacher.statistics = f"({'0.1, ' * 13}), ({'0.2, ' * 13})"
        with pytest.raises(UserError, match=f"data.channels={channels}, and the teacher {STAGE} is {words}"):
            fit_tokenizer_to_teacher(config)


def test_the_report_of_a_tokenizer_needs_no_teacher():
    config = tiny.config("vqkd")
    config.data.channels, config.teacher = 13, keys.section(path="runs/teacher")
    assert tasks.create_task(config).report.curves[0].unit == "1 - cosine"


def test_runs_without_such_a_teacher():
    encoder, dino = keys.section(kind="encoder"), keys.section(kind="dino")
    with pytest.raises(UserError, match=r"x is a run of the task 'tokenizer', and no teacher of the kind 'encoder'"):
        of_run(encoder, tiny.config("tokenizer"), "x")
    with pytest.raises(UserError, match=r"x is a run of the task 'pretrain', and no teacher of the kind 'dino'"):
        of_run(dino, pretraining(), "x")
    assert of_run(keys.section(), pretraining(), "x").kind == "encoder"  # a run tells it
    names = ["encoder/cls_token", "fc_norm/scale"]
    with pytest.raises(UserError, match=r"x has no norm after its last block; .*: teacher.layer=N"):
        of_run(encoder, tiny.config("classify"), "x", names)
    assert of_run(keys.section(kind="encoder", layer=2), tiny.config("classify"), "x", names).layer == 2


def test_files_of_other_libraries_are_converted_first(tmp_path):
    (tmp_path / "clip.pt").write_bytes(b"")
    message = r"clip.pt runs/teacher --to beit_jax --teacher clip$"
    with pytest.raises(UserError, match=message):
        fill_in_teacher(with_teacher(path=str(tmp_path / "clip.pt")), tmp_path / "run", {})
    with pytest.raises(UserError, match="holds no checkpoint: there is no such folder"):
        fill_in_teacher(with_teacher(path=str(tmp_path / "none")), tmp_path / "run", {})


def test_configs_that_name_no_run_stay_as_they_are(tmp_path):
    for config in (with_teacher(), tiny.config("classify")):
        assert fill_in_teacher(config, tmp_path, {}) == config


def test_a_tokenizer_predicts_what_its_teacher_has():
    config = tiny.config("vqkd")
    assert fit_tokenizer_to_teacher(config).model.target_width == 32
    config.model.target_width = 512
    with pytest.raises(UserError, match=r"has 32 numbers for a patch, and model.target_width is 512; leave model.targ"):
        fit_tokenizer_to_teacher(config)
    assert fit_tokenizer_to_teacher(tiny.config("tokenizer")) == tiny.config("tokenizer")
