"""The training step on made-up batches, alone and beside PyTorch."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny

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
def test_the_named_interface_without_tensorflow(repository):
    config = f"--config={repository}/configs/pretrain.py:runlocal"
    command = [sys.executable, "-c", WITHOUT, config, "--steps=3", "--json", "--config.batch_size=8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"images_per_second", "step_ms", "mfu", "peak_bytes", "compile_seconds"} <= found.keys()
    assert (found["mfu"], found["batch_size"], found["tokens_given"]) == (None, 8, False)
    assert found["images_per_second"] * found["step_ms"] / 1e3 * found["devices"] == pytest.approx(8)
    assert found["tflops"] == pytest.approx(found["gflop_per_image"] * found["images_per_second"] / 1e3)
    assert f"{found['images_per_second']:,.1f} images/s per device" in done.stdout
    done = subprocess.run([*command, "--vs=torch"], capture_output=True, text=True, timeout=120)
    assert "UserError: --vs=torch needs torch and transformers: blocked: torch;" in done.stderr


@pytest.mark.parametrize("task", ["tokenizer", "pretrain", "classify", "probe", "segment"])
def test_made_up_batches_can_be_learned_from(task):
    config = program.complete(tiny.config(task), "", "auto")
    made = tasks.create(config)
    rows = synthetic.rows(config, made)
    made.check(rows)
    assert {name: (spec.shape, spec.dtype) for name, spec in made.batch_spec(config.batch_size).items()} == {
        name: (values.shape, values.dtype) for name, values in rows.items()
    }


def test_steps_change_the_state():
    config = program.complete(tiny.config("classify"), "", "auto")
    made = program.make(config)
    contestant = step.Step(made, synthetic.rows(config, made.task))
    contestant(0, 1)
    first = contestant.loss
    contestant(1, 5)
    assert contestant.loss < first and contestant.compile_seconds > 0


def test_given_tokens_are_the_same_loss():
    config = program.complete(tiny.config("pretrain"), "", "auto")
    task = tasks.create(config)
    given = synthetic.with_tokens(config)
    rows, key = synthetic.rows(config, task), jax.random.key(3)
    net = tasks.pretrain.tokenizer.model(config.tokenizer)

    @jax.jit
    def both(rows):
        params, frozen = task.init(key), {"tokenizer": task.frozen["tokenizer"].init(key)}
        tokens = net.apply({"params": frozen["tokenizer"]}, rows["tokenizer_image"], method="tokens")
        with_tokens = {"image": rows["image"], "mask": rows["mask"], "tokens": tokens}
        computed = task.loss(params, frozen, rows, key, 0)["loss"]
        return tokens, computed, given.loss(params, {}, with_tokens, key, 0)["loss"]

    tokens, computed, found = both(rows)
    assert len(np.unique(tokens)) > 1
    np.testing.assert_allclose(found, computed, rtol=1e-6)
    assert given.batch_spec(2).keys() == {"image", "mask", "tokens"} and not given.frozen


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
        counts = synthetic.masks(config, np.random.default_rng(0), shape).sum(axis=(1, 2))
        assert counts.max() == 75 and lowest <= counts.min(), ops
    config.data.ops = "decode|blockwise_mask(num_masked=20, min_block=4)"
    counts = synthetic.masks(config, np.random.default_rng(0), shape).sum(axis=(1, 2))
    assert 10 < counts.mean() <= counts.max() == 20


def test_turns_and_medians():
    now, calls = [0.0], []

    def contestant(name, seconds):
        def run(first, count):
            calls.append((name, first, count))
            now[0] += next(seconds) * count

        return run

    both = [contestant("a", iter([9, 1, 2, 30])), contestant("b", iter([9, 4, 50, 5]))]
    medians = timing.in_turns(both, rounds=3, calls=2, clock=lambda: now[0])
    assert medians == [2, 5]
    assert calls[:4] == [("a", 0, 2), ("b", 0, 2), ("a", 0, 2), ("b", 0, 2)] and calls[4:6] == [
        ("a", 2, 2),
        ("b", 2, 2),
    ]


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UserError, match="--vs and --tokens_given are for pre-training, but task='classify'"):
        step.measure(program.complete(tiny.config("classify"), "", "auto"), 1, "torch")
    with pytest.raises(UserError, match="--vs compares one device, found 8"):
        step.measure(program.complete(tiny.config("pretrain"), "", "auto"), 1, "torch")
    config = tiny.config("pretrain")
    with pytest.raises(UserError, match="--real reads images, whose tokens the step computes"):
        step.measure(program.complete(config, "", "auto"), 1, tokens_given=True, real=True)
    config.target = "pixels"
    with pytest.raises(UserError, match="leave out fast and target"):
        step.measure(program.complete(config, "", "auto"), 1, tokens_given=True)
    config = tiny.config("pretrain")
    config.batch_size = 12
    with pytest.raises(UserError, match=r"batch_size=12 .*not divisible by the 8 devices"):
        step.measure(program.complete(config, "", "auto"), 1)


def test_beside_torch(monkeypatch, torchvision_without_its_binary):
    pytest.importorskip("torch")
    from beit_jax.benchmarks.torch_baseline import TorchPeer

    everywhere = sharding.make_mesh
    monkeypatch.setattr(program.sharding, "make_mesh", lambda sizes: everywhere(sizes, jax.devices()[:1]))
    config = program.complete(tiny.config("pretrain"), "", "auto")
    found = step.measure(config, steps=6, vs="torch")
    assert found["tokens_given"] and found["peer"]["name"].startswith("transformers ")
    ratio = found["images_per_second"] / found["peer"]["images_per_second"]
    assert found["vs"] == pytest.approx(ratio)
    # Both learn: tokens are uniform guesses at first, over 16 codes.
    assert found["loss"] < np.log(16) + 0.3 and found["peer"]["loss"] < np.log(16) + 0.3

    made = program.make(config)
    rows = synthetic.rows(config, synthetic.with_tokens(config))
    peer = TorchPeer(config, "float32", rows)
    ours = sum(leaf.size for leaf in jax.tree.leaves(made.state.params))
    assert sum(parameter.numel() for parameter in peer._model.parameters()) == ours
    peer(0, 1)
    first = peer.loss
    peer(1, 5)
    assert peer.loss < first


def test_beside_timm(monkeypatch, torchvision_without_its_binary):
    """With our parameters timm's loss is ours on the same rows, and its model learns."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    from beit_jax.benchmarks.torch_baseline import TorchPeer

    config = program.complete(tiny.config("pretrain"), "", "auto")
    config.model.drop_path = 0.0
    task = synthetic.with_tokens(config)
    rows, key = synthetic.rows(config, task), jax.random.key(5)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), task.init(key))
    total, count = task.loss(params, {}, rows, key, 0)["loss"]
    flat = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    peer, own = TorchPeer(config, "float32", rows, "timm"), ("lm_head", "mask_token")  # what timm's encoder has not
    state = {}
    for name, leaf in names.to_layout(flat, "unilm", "pretrain").items():
        name = name.replace("lm_head", "head") if name.startswith(own) else f"beit.{name}"
        state[name] = torch.from_numpy(np.array(leaf))
    found = peer._model.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all(name.endswith(("k_bias", "relative_position_index")) for name in found.missing_keys)
    with torch.no_grad():
        assert peer._model(*peer._batch).item() == pytest.approx(float(total / count), rel=1e-5)
    peer(0, 1)
    first = peer.loss
    peer(1, 5)
    assert peer.loss < first


@pytest.mark.slow
def test_the_table(capsys, monkeypatch):
    """HostBatch that can be measured and rows that cannot, each told in a line."""
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
def test_real_batches(monkeypatch):
    everywhere = sharding.make_mesh
    monkeypatch.setattr(program.sharding, "make_mesh", lambda sizes: everywhere(sizes, jax.devices()[:1]))
    config = program.complete(configs.load("configs/pretrain.py:runlocal"), "", "auto")
    found = step.measure(config, steps=3, real=True)
    assert 0 <= found["input_wait"] <= 1 and found["loss"] < np.log(32) + 0.5
