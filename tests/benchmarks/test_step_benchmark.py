"""The training step on synthetic batches, alone and beside PyTorch."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny
from beit_references import random_parameters
from patience import PATIENCE_S

from beit_jax import config as configs
from beit_jax import tasks
from beit_jax.benchmarks import program, step, synthetic, table, timing
from beit_jax.convert import names
from beit_jax.errors import UserError
from beit_jax.training import sharding
from beit_jax.training.params import flatten

WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tensorflow", "tensorflow_datasets", "torch", "transformers", "matplotlib"}:
            raise ModuleNotFoundError(f"blocked: {name}")
sys.meta_path.insert(0, Blocked())
from beit_jax import benchmark
benchmark.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_the_command_without_tensorflow(repository):
    config = f"--config={repository}/configs/pretrain.py:runlocal"
    command = [sys.executable, "-c", WITHOUT, config, "--steps=3", "--json", "--config.batch_size=8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"images_per_second", "step_ms", "mfu", "peak_bytes", "compile_seconds"} <= found.keys()
    assert (found["mfu"], found["batch_size"], found["tokens_given"]) == (None, 8, False)
    assert found["images_per_second"] * found["step_ms"] / 1e3 * found["devices"] == pytest.approx(8)
    assert found["tflops"] == pytest.approx(found["gflop_per_image"] * found["images_per_second"] / 1e3)
    assert f"{found['images_per_second']:,.1f} images/s per device" in done.stdout
    done = subprocess.run([*command, "--vs=torch"], capture_output=True, text=True, timeout=PATIENCE_S)
    assert "UserError: torch and transformers are not installed; run: pip install -e '.[parity]'" in done.stderr


@pytest.fixture
def one_device(monkeypatch):
    """Measurements see the first device only."""
    mesh = tiny.one_device()
    monkeypatch.setattr(sharding, "make_mesh", lambda sizes: mesh)


def completed(config):
    return program.complete_without_data(config, "", "auto")


@pytest.mark.parametrize("task", ["tokenizer", "vqkd", "pretrain", "pretrain_pixels", "classify", "probe", "segment"])
def test_synthetic_batches_can_be_learned_from(task):
    config = completed(tiny.config(task))
    made = tasks.create_task(config)
    batch = synthetic.synthetic_batch(config, made)
    made.check_batch(batch)
    assert {name: (spec.shape, spec.dtype) for name, spec in made.train_spec(config.batch_size).items()} == {
        name: (values.shape, values.dtype) for name, values in batch.items()
    }


def test_integers_without_a_bound_are_refused(monkeypatch):
    monkeypatch.setattr(tasks.classify.Classify, "integer_bounds", {})
    config = completed(tiny.config("classify"))
    with pytest.raises(UserError, match=r"does not say which values 'label' has; expected their bound"):
        synthetic.synthetic_batch(config, tasks.create_task(config))


def test_durations_are_those_of_a_run(one_device):
    config = tiny.config("tokenizer")
    config.steps, config.loss.annealing, config.loss.kl_warmup = 40, "50%", "2 epochs"
    config = completed(config)
    assert (config.loss.annealing, config.loss.kl_warmup) == ("20 steps", "200 steps")
    assert step.measure_step(config, steps=1)["loss"] < 10


def test_steps_change_the_state(one_device):
    config = tiny.config("probe")
    config.cache_features = True  # the smallest step
    config = completed(config)
    experiment = program.experiment_without_data(config)
    compiled = step.CompiledStep(experiment, synthetic.synthetic_batch(config, experiment.task))
    compiled(0, 1)
    first = compiled.loss
    compiled(1, 5)
    assert compiled.loss < first and compiled.compile_seconds > 0


def test_given_tokens_are_the_same_loss():
    config = completed(tiny.config("pretrain"))
    task, given = tasks.create_task(config), synthetic.pretrain_on_given_tokens(config)
    batch, key = synthetic.synthetic_batch(config, task), jax.random.key(3)

    params = random_parameters(jax.eval_shape(task.init, key))
    frozen = {"tokenizer": random_parameters(jax.eval_shape(task.tokenizer.init, key))}

    @jax.jit
    def both(params, frozen, batch):
        tokens = task.tokenizer.targets(frozen["tokenizer"], batch["tokenizer_image"])
        with_tokens = {"image": batch["image"], "mask": batch["mask"], "tokens": tokens}
        computed, _ = task.loss(params, frozen, batch, key, 0)
        found, _ = given.loss(params, {}, with_tokens, key, 0)
        return tokens, computed["loss"], found["loss"]

    tokens, computed, found = both(params, frozen, batch)
    assert len(np.unique(tokens)) > 1
    np.testing.assert_allclose(found, computed, rtol=1e-6)
    assert given.train_spec(2).keys() == {"image", "mask", "tokens"} and not given.frozen_parts


def test_masks_follow_the_ops():
    config = tiny.config("pretrain")
    shape = (200, 14, 14)
    config.num_masked = 75
    for ops, lowest in (
        ("decode|blockwise_mask(75, 16, (14, 14))|keep('image')", 60),
        ("decode|blockwise_mask|keep('image')", 60),
        ("decode|random_mask(75)", 75),
    ):
        config.data.ops = ops
        counts = synthetic.synthetic_masks(config, np.random.default_rng(0), shape).sum(axis=(1, 2))
        assert counts.max() == 75 and lowest <= counts.min(), ops
    config.data.ops = "decode|blockwise_mask(num_masked=20, min_block=4)"
    counts = synthetic.synthetic_masks(config, np.random.default_rng(0), shape).sum(axis=(1, 2))
    assert 10 < counts.mean() <= counts.max() == 20


def test_alternation_and_medians():
    now, calls = [0.0], []

    def timed(name, seconds):
        def run(first, count):
            calls.append((name, first, count))
            now[0] += next(seconds) * count

        return run

    both = [timed("a", iter([9, 1, 2, 30])), timed("b", iter([9, 4, 50, 5]))]
    medians = timing.time_alternately(both, rounds=3, calls=2, clock=lambda: now[0])
    assert medians == [2, 5]
    assert calls[:4] == [("a", 0, 2), ("b", 0, 2), ("a", 0, 2), ("b", 0, 2)] and calls[4:6] == [
        ("a", 2, 2),
        ("b", 2, 2),
    ]


def test_what_cannot_be_measured_is_refused():
    for task in ("classify", "pretrain_pixels"):
        with pytest.raises(UserError, match=f"are for pre-training on tokens, but task='{task}'; leave them out"):
            step.measure_step(completed(tiny.config(task)), 1, "torch")
    config = tiny.config("pretrain")
    with pytest.raises(UserError, match="--vs compares one device, found 8"):
        step.measure_step(completed(config), 1, "torch")
    with pytest.raises(UserError, match="--real reads images, whose tokens the step computes"):
        step.measure_step(completed(config), 1, tokens_given=True, real=True)
    config.device_augment = True
    with pytest.raises(UserError, match="device_augment=True: the step changes the colours"):
        step.measure_step(completed(config), 1, tokens_given=True)
    config = tiny.config("pretrain")
    config.batch_size = 12
    with pytest.raises(UserError, match=r"batch_size=12 .*not divisible by the 8 devices"):
        step.measure_step(completed(config), 1)


def test_beside_torch(one_device, torchvision_without_its_binary):
    pytest.importorskip("torch")
    from beit_jax.benchmarks.torch_baseline import TorchBaseline

    config = completed(tiny.config("pretrain"))
    found = step.measure_step(config, steps=6, vs="torch")
    assert found["tokens_given"] and found["baseline"]["name"].startswith("transformers ")
    ratio = found["images_per_second"] / found["baseline"]["images_per_second"]
    assert found["ours_over_baseline"] == pytest.approx(ratio)
    # Both learn: tokens are uniform guesses at first, over 16 codes.
    assert found["loss"] < np.log(16) + 0.3 and found["baseline"]["loss"] < np.log(16) + 0.3

    task = synthetic.pretrain_on_given_tokens(config)
    baseline = TorchBaseline(config, "float32", synthetic.synthetic_batch(config, task))
    ours = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0))))
    assert sum(parameter.numel() for parameter in baseline._model.parameters()) == ours
    baseline(0, 1)
    first = baseline.loss
    baseline(1, 5)
    assert baseline.loss < first


def test_beside_timm(torchvision_without_its_binary):
    """With our parameters timm's loss is ours on the same batch, and its model learns."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    from beit_jax.benchmarks.torch_baseline import TorchBaseline

    config = completed(tiny.config("pretrain"))
    config.model.drop_path = 0.0
    task = synthetic.pretrain_on_given_tokens(config)
    batch, key = synthetic.synthetic_batch(config, task), jax.random.key(5)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), task.init(key))
    total, count = task.loss(params, {}, batch, key, 0)[0]["loss"]
    flat = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    baseline = TorchBaseline(config, "float32", batch, "timm")
    state, not_in_timm = {}, ("lm_head", "mask_token")
    for name, leaf in names.to_layout(flat, "unilm", "pretrain").items():
        name = name.replace("lm_head", "head") if name.startswith(not_in_timm) else f"beit.{name}"
        state[name] = torch.from_numpy(np.array(leaf))
    found = baseline._model.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all(name.endswith(("k_bias", "relative_position_index")) for name in found.missing_keys)
    with torch.no_grad():
        assert baseline._model(*baseline._batch).item() == pytest.approx(float(total / count), rel=1e-5)
    baseline(0, 1)
    first = baseline.loss
    baseline(1, 5)
    assert baseline.loss < first


@pytest.mark.slow
def test_the_table(capsys, monkeypatch):
    """Rows that can be measured and rows that cannot, each in a line."""
    tried = ["configs/pretrain.py:runlocal", "--config.batch_size=8", "--steps=1"]
    monkeypatch.setitem(table.ROWS, "cpu", (("small", tried), ("wrong", [*tried, "--config.batch_size=0"])))
    table.main(["cpu", "--json"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| row | images/s |") and lines[2].startswith("| small | ")
    assert lines[3].startswith("| wrong | not measured: error: batch_size=0")
    assert len({line.count("|") for line in lines[:4]}) == 1
    small, wrong = json.loads(lines[-1])["rows"]
    assert small["images_per_second"] > 0 and "batch_size" in wrong["error"]


@pytest.mark.slow
def test_real_batches(one_device):
    config = completed(configs.load("configs/pretrain.py:runlocal"))
    found = step.measure_step(config, steps=3, real=True)
    assert 0 <= found["input_wait"] <= 1 and found["loss"] < np.log(32) + 0.5
