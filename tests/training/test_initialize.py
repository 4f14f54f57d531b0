"""First parameters: new ones are the same however XLA compiles; those of BEiT v2 lose the additional blocks."""

import json

import jax
import numpy as np
import pytest
from beit_references import random_parameters
from commands import refused
from tiny import config as tiny
from tiny import experiment, one_device

from beit_jax import config as configs
from beit_jax.errors import UserError
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks import create_task
from beit_jax.training import checkpoint, checkpoint_manager, initialize, train_step
from beit_jax.training.grids import PendingStage, grid_of_model
from beit_jax.training.interpolate_positions import POSITIONS, bicubic
from beit_jax.training.params import flatten


@pytest.mark.parametrize("task", ["tokenizer", "pretrain"])
def test_the_level_of_optimisation_changes_no_new_parameter(task):
    made = experiment(tiny(task), one_device())
    found = made.fresh_state()
    create = jax.jit(lambda key: train_step.new_state(made.task, made.optimizer, key, False))
    with jax.set_mesh(made.mesh):
        optimised = create.lower(made.random_keys[0]).compile({"xla_backend_optimization_level": 3})
        expected = optimised(made.random_keys[0])
    # Equal bit for bit by jax 0.10; by jax 0.12 a few numbers differ in their last bits.
    jax.tree.map(lambda one, other: np.testing.assert_array_max_ulp(one, other, 4), found.params, expected.params)


def saved(folder, **fields):
    """The parameters of a pre-training, written to `folder`."""
    config = tiny("pretrain")
    config.model.update(fields)
    params = jax.device_get(run_once(create_task(config).init, jax.random.key(8)))
    checkpoint.save_params(folder, params, configs.to_json(config))
    return flatten(params)


def started(folder, config):
    """The parameters that a run starts with, and what it says about them."""
    made = experiment(config, one_device())
    config.init_from = str(folder / "pretrain")
    initialize.check_sources(config, made.task, folder / "run", {})
    checkpoints = checkpoint_manager.Checkpoints(folder / "run")
    key = jax.random.key(1)
    state, line = initialize.starting_state(
        config, made.task, made.optimizer, made.abstract_state, key, checkpoints, folder / "run"
    )
    return flatten(jax.device_get(state.params)), line


@pytest.mark.parametrize("task", ["classify", pytest.param("segment", marks=pytest.mark.slow)])
def test_the_main_blocks_alone_are_taken_from_beit_v2(tmp_path, task):
    theirs = saved(tmp_path / "pretrain", early_layer=1, shared_head=False)
    assert any(name.startswith("aggregation_") for name in theirs)
    found, line = started(tmp_path, tiny(task))
    assert "aggregation" not in line and not any(name.startswith("aggregation_") for name in found)
    blocks = [name for name in theirs if name.startswith("encoder/blocks/")]
    assert len(blocks) == 15
    for name in blocks:
        np.testing.assert_array_equal(found[name], theirs[name], err_msg=name)


def test_beit_v2_does_not_start_from_a_run_without_its_blocks(tmp_path):
    saved(tmp_path / "pretrain")
    config = tiny("pretrain")
    config.model.early_layer = 1
    message = (
        r"is a pre-training of BEiT, and the config is one of BEiT v2, .* is 0 there and 1 here.* initialize them: "
    )
    with pytest.raises(UserError, match=message + r"--config.init_optional=\"\('\^aggregation_',\)\""):
        started(tmp_path, config)
    config.init_optional = ("^aggregation_",)
    found, line = started(tmp_path, config)
    assert "initialised anew, not there: aggregation_blocks (15 parameters)" in line
    assert np.abs(found["aggregation_blocks/mlp/fc1/bias"]).max() > 0.1


def store(folder, config):
    """A checkpoint of a config, of zeros."""
    shapes = jax.eval_shape(create_task(config).init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    checkpoint.save_params(folder, zeros, configs.to_json(config))


def check(config, folder):
    initialize.check_sources(config, create_task(config), folder / "run", {})


def test_beit_does_not_start_from_the_additional_blocks_of_beit_v2(tmp_path):
    v2, config = tiny("pretrain"), tiny("pretrain")
    v2.model.early_layer = 1
    store(tmp_path / "v2", v2)
    config.init_from = str(tmp_path / "v2")
    with pytest.raises(UserError, match=r"is a pre-training of BEiT v2, and the config is one of BEiT, .* is 1 there"):
        check(config, tmp_path)
    config.init_optional = ("^aggregation_",)  # as the message says
    check(config, tmp_path)


def test_a_head_of_other_tokens_is_initialized_anew(tmp_path):
    theirs, config = saved(tmp_path / "pretrain"), tiny("pretrain")
    found, _ = started(tmp_path, config)
    np.testing.assert_array_equal(found["lm_head/kernel"], theirs["lm_head/kernel"])
    config.init_new = ("^lm_head/",)  # of the same shape
    found, line = started(tmp_path, config)
    assert line.endswith("; initialised anew, by init_new: lm_head/bias, lm_head/kernel")
    assert not np.array_equal(found["lm_head/kernel"], theirs["lm_head/kernel"])
    np.testing.assert_array_equal(found["encoder/norm/scale"], theirs["encoder/norm/scale"])


def test_a_probe_of_an_encoder_for_other_channels(tmp_path):
    theirs, config = saved(tmp_path / "pretrain"), tiny("probe")
    config.encoder.init_from, config.data.channels = str(tmp_path / "pretrain"), 4
    with pytest.raises(UserError, match=r"for images of 3 channels, and these have 4: inflate=average"):
        check(config, tmp_path)
    config.inflate = "average"
    check(config, tmp_path)
    made = experiment(config, one_device())
    (name,) = (name for name in theirs if name.endswith("patch_embed/kernel"))
    kernel = flatten(made.frozen["encoder"])[name]
    expected = np.repeat(theirs[name].sum(axis=2, keepdims=True) / 4, 4, axis=2)
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("task", "kind"), [("classify", "kmeans_features"), ("probe", "kmeans"), ("pretrain", "dvae")])
def test_a_tokenizer_is_no_encoder(tmp_path, task, kind):
    store(tmp_path / "tokenizer", tiny("tokenizer" if kind == "dvae" else kind))
    config = tiny(task)
    (config.encoder if task == "probe" else config).init_from = str(tmp_path / "tokenizer")
    message = f"is a tokenizer of the kind '{kind}'; expected a run with an encoder, such as a pre-training"
    with pytest.raises(UserError, match=message) as error:
        check(config, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sizes", [(16, (16, 32)), ((16, 32), 16), ((16, 32), (8, 24)), ((16, 32), (32, 16))])
@pytest.mark.parametrize(("task", "is_pending"), [("classify", False), ("classify", True), ("probe", False)])
def test_positions_of_squares_and_rectangles_become_each_other(tmp_path, task, is_pending, sizes):
    before, config, pending = tiny("pretrain"), tiny(task), {}
    before.model.image_size, config.model.image_size = sizes
    source = "stage:pretrain" if is_pending else str(tmp_path / "pretrain")
    (config.encoder if task == "probe" else config).init_from = source
    if is_pending:
        pending[source] = PendingStage(before, jax.eval_shape(create_task(before).init, jax.random.key(0)))
    else:
        store(tmp_path / "pretrain", before)
    initialize.check_sources(config, create_task(config), tmp_path / "run", pending)


@pytest.mark.parametrize(
    ("part", "sizes"),
    [
        *(("classify", sizes) for sizes in [(16, (8, 32)), ((8, 32), 16), ((16, 32), (32, 16))]),
        *(("encoder", sizes) for sizes in [(16, (8, 32)), ((16, 36), (16, 24))]),
        ("tokenizer", ((16, 32), (32, 16))),
    ],
)
def test_positions_have_the_values_of_their_grid(tmp_path, part, sizes):
    """Also where as many patches are a square, or the same rectangle turned; of what is learned and what is frozen."""
    before, config = tiny("vqkd" if part == "tokenizer" else "pretrain"), tiny("classify")
    if part == "tokenizer":
        config = configs.defaults("pretrain", "vqkd")
        config.model.variant, config.tokenizer.init_from = "Micro/4", str(tmp_path / "pretrain")
        config.tokenizer.update({name: before.model[name] for name in config.tokenizer if name in before.model})
    elif part == "encoder":
        config = tiny("probe")
        config.encoder.init_from = str(tmp_path / "pretrain")
    before.model.image_size, config.model.image_size = sizes
    for section in (before, config)[: 1 if part == "tokenizer" else 2]:
        if "relative_position" in section.model:
            section.model.update(dict(relative_position="none", absolute_positions=True))
    own = random_parameters(jax.eval_shape(create_task(before).init, jax.random.key(0)))
    checkpoint.save_params(tmp_path / "pretrain", own, configs.to_json(before))
    task = create_task(config)
    if part == "classify":
        target = jax.eval_shape(task.init, jax.random.key(0))
        found = flatten(initialize._fitted(config, own, target, grid_of_model(before)))
    else:
        initialize.check_sources(config, task, tmp_path / "run", {})
        frozen = initialize.load_frozen(task, initialize.abstract_frozen(task, one_device()), tmp_path / "run")
        found = flatten(jax.device_get(frozen[part]))
    (rows, columns), new = map(grid_of_model, (before, config))
    y, x = (np.eye(a) if a == b else bicubic(a, b) for a, b in zip((rows, columns), new, strict=True))
    expected = np.einsum("yi,xj,ijc->yxc", y, x, flatten(own)[POSITIONS][0, 1:].reshape(rows, columns, -1))
    np.testing.assert_allclose(found[POSITIONS][0, 1:].reshape(*new, -1), expected, atol=1e-6)


@pytest.mark.parametrize("task", ["classify", "probe"])
def test_the_encoder_of_a_vqkd_has_parameters_of_its_own(tmp_path, task):
    store(tmp_path / "tokenizer", tiny("vqkd"))
    config = tiny(task)
    (config.encoder if task == "probe" else config).init_from = str(tmp_path / "tokenizer")
    config.model.layer_scale = 0.0
    expected = "expected --config.model.relative_position=none --config.model.absolute_positions=True$"
    with pytest.raises(UserError, match=f"is a tokenizer of the kind 'vqkd', whose encoder .*; {expected}"):
        check(config, tmp_path)
    config.model.update(dict(relative_position="none", absolute_positions=True))
    check(config, tmp_path)


def test_a_tokenizer_does_not_start_from_another_model(tmp_path):
    store(tmp_path / "pretrain", tiny("pretrain"))
    store(tmp_path / "dvae", tiny("tokenizer"))
    teacher = json.dumps({"task": "teacher", "teacher": {"kind": "clip"}})
    checkpoint.save_params(tmp_path / "teacher", {"a": np.ones(3, np.float32)}, teacher)
    for source, message in [
        ("pretrain", "it is no tokenizer; expected a tokenizer of the kind 'vqkd'"),
        ("dvae", "it is a tokenizer of the kind 'dvae'; expected a tokenizer of the kind 'vqkd'"),
        ("teacher", "it is a converted teacher, which teacher.path takes; expected a run with an encoder"),
    ]:
        config = tiny("vqkd")
        config.init_from = str(tmp_path / source)
        with pytest.raises(UserError, match=message):
            check(config, tmp_path)


@pytest.mark.parametrize(
    ("config", "source", "message"),
    [
        ("pretrain.py:runlocal,v2", "pretrain", "it is a pre-training of BEiT, and the config is one of BEiT v2"),
        ("finetune.py:runlocal", "vqkd", "it is a tokenizer of the kind 'vqkd', whose encoder has other parameters"),
    ],
)
def test_the_command_tells_them_in_one_line(tmp_path, config, source, message):
    store(tmp_path / source, tiny(source))
    workdir, start = f"--workdir={tmp_path / 'run'}", f"--config.init_from={tmp_path / source}"
    assert message in refused([f"--config=configs/{config}", workdir, start])
