"""Tokens computed once: runs that read them learn what runs learn that compute them."""

import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from commands import command, refused
from distributed.runs import numbers
from patience import PATIENCE_S

from beit_jax import config as configs
from beit_jax import evaluate, tokenize_dataset, train
from beit_jax.data.records import stored_tokens
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks import create_task
from beit_jax.training import checkpoint

pytestmark = pytest.mark.usefixtures("in_the_checkout")

SHORT = ["--config.steps=10", "--config.log_every=1", "--config.save_every=5", "--config.eval_every=5"]


def arguments(out, *more, config="configs/pretrain.py:runlocal"):
    return [f"--config={config}", f"--out={out}", *SHORT, *more]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, repository):
    """A folder with `tokens`, and `plain`: a run that computes them."""
    folder = tmp_path_factory.mktemp("runs")
    with jax.numpy_dtype_promotion("standard"), pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        train.main(command("pretrain", folder / "plain", *SHORT))
        tokenize_dataset.main(arguments(folder / "tokens"))
    return folder


def continued(run, workdir, *overrides):
    """The numbers of a run that was killed after its checkpoint of step 5, and goes on otherwise."""
    shutil.copytree(run, workdir)
    shutil.rmtree(workdir / "checkpoints" / "10")
    (workdir / "result.json").unlink()
    train.main(command("pretrain", workdir, *SHORT, *overrides))
    return numbers(workdir)


@pytest.mark.slow
def test_the_same_numbers(runs, tmp_path):
    given = f"--config.tokens={runs}/tokens"
    train.main(command("pretrain", tmp_path / "given", *SHORT, given))
    expected = numbers(runs / "plain")
    assert [line["step"] for line in expected if "loss" in line] == list(range(1, 11))
    assert numbers(tmp_path / "given") == expected
    assert continued(tmp_path / "given", tmp_path / "continued", given) == expected
    assert continued(runs / "plain", tmp_path / "from_now_on", given) == expected


@pytest.mark.slow
def test_the_tokens_are_those_of_the_step(runs):
    files = sorted(path.name for path in (runs / "tokens").iterdir())
    assert files == ["key.json", "tokens-000000000-000000010.npy"]
    tokens = np.load(runs / "tokens" / files[1], allow_pickle=False)["tokens"]
    assert tokens.shape == (10, 32, 16) and tokens.max() < 32 and len(np.unique(tokens)) > 1


@pytest.mark.slow
def test_other_models_and_masks_take_the_same_tokens(runs, tmp_path):
    ops = (
        "decode|color_jitter(0.4)|flip_lr|two_views(16, 16)|normalize(statistics)|map_pixels('tokenizer_image')"
        "|random_mask(6, 4)|keep('image', 'tokenizer_image', 'mask')"
    )
    more = [*SHORT, "--config.model.variant=Nano/4", f"--config.data.ops={ops}"]
    for name, tokens in (("plain", ""), ("given", runs / "tokens")):
        train.main(command("pretrain", tmp_path / name, *more, f"--config.tokens={tokens}"))
    assert numbers(tmp_path / "given") == numbers(tmp_path / "plain") != numbers(runs / "plain")
    shutil.move(runs / "tokens", tmp_path / "gone")
    evaluate.main([f"--checkpoint={tmp_path}/given"])  # computes its own
    shutil.move(tmp_path / "gone", runs / "tokens")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.seed=1"], "seed is 0 there and 1 now; use their settings, or compute tokens"),
        (["--config.batch_size=16"], "batch_size is 32 there and 16 now; use"),
        (["--config.data.split=train[:90%]"], "data.split is 'train' there and 'train[:90%]' now (and 1 more differ)"),
        (["--config.tokenizer.hidden=16"], "tokenizer.hidden is 8 there and 16 now"),
        (["--config.steps=12"], "has tokens for the first 10 steps, expected the 12 of the run"),
        (["--config.tokens=nowhere"], "tokens=nowhere is not there; expected a folder of stored tokens"),
        (["--config.tokens=docs"], "there are no tokens in docs; run python -m beit_jax.tokenize_dataset"),
        (["--config.tokens=s3://bucket"], "tokens=s3://bucket is a URL; expected a folder"),
    ],
)
def test_other_streams_are_refused_before_training(runs, tmp_path, overrides, message):
    found = refused(command("pretrain", tmp_path / "run", *SHORT, f"--config.tokens={runs}/tokens", *overrides))
    assert message in found
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_another_tokenizer_is_refused(runs, tmp_path):
    config = configs.load("configs/pretrain.py:runlocal")
    params = run_once(create_task(config).tokenizer.init, jax.random.key(1))
    made = configs.to_json(configs.load("configs/tokenizer.py:runlocal"))
    checkpoint.save_params(tmp_path / "tokenizer", params, made)
    other = [*SHORT, f"--config.tokenizer.init_from={tmp_path}/tokenizer", f"--config.tokens={runs}/tokens"]
    message = refused(command("pretrain", tmp_path / "run", *other))
    assert "of another stream or tokenizer: parameters of the tokenizer is" in message
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vqkd", "kmeans_features"])
def test_the_same_numbers_with_other_tokenizers(tmp_path, kind):
    config = f"configs/pretrain.py:kind={kind},runlocal"
    tokenize_dataset.main(arguments(tmp_path / "tokens", config=config))
    for name, given in (("computed", []), ("given", [f"--config.tokens={tmp_path}/tokens"])):
        train.main([f"--config={config}", f"--workdir={tmp_path}/{name}", *SHORT, *given])
    assert numbers(tmp_path / "given") == numbers(tmp_path / "computed")


@pytest.mark.slow
def test_a_stage_of_a_recipe(tmp_path):
    config = "configs/quickstart.py:runlocal,seeds=0"
    steps = ["--config.tokenizer.steps=5", "--config.pretrain.steps=5", "--config.pretrain.log_every=1"]
    train.main([f"--config={config}", f"--workdir={tmp_path}/run", *steps])
    expected = numbers(tmp_path / "run" / "pretrain")
    shutil.rmtree(tmp_path / "run" / "pretrain")
    call = [f"--config={config}", "--stage=pretrain", f"--out={tmp_path}/tokens", *steps]
    assert "--config.pretrain.tokenizer.init_from=WORKDIR/tokenizer" in refused(call, tokenize_dataset)
    tokenize_dataset.main([*call, f"--config.pretrain.tokenizer.init_from={tmp_path}/run/tokenizer"])
    train.main(
        [f"--config={config}", f"--workdir={tmp_path}/run", *steps, f"--config.pretrain.tokens={tmp_path}/tokens"]
    )
    assert numbers(tmp_path / "run" / "pretrain") == expected


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_workers_and_longer_runs(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stored_tokens, "FILE_STEPS", 4)
    tokenize_dataset.main(arguments(tmp_path / "one"))
    rows = np.concatenate([np.load(path) for path in sorted((tmp_path / "one").glob("*.npy"))])
    np.testing.assert_array_equal(rows, np.load(runs / "tokens" / "tokens-000000000-000000010.npy"))
    capsys.readouterr()
    tokenize_dataset.main(arguments(tmp_path / "many", "--worker=1/2"))
    assert "1 of 3 files are those of other workers" in capsys.readouterr().out
    assert "has tokens for the first 0 steps" in refused(
        command("pretrain", tmp_path / "run", *SHORT, f"--config.tokens={tmp_path}/many")
    )
    tokenize_dataset.main(arguments(tmp_path / "many", "--worker=0/2"))
    assert f"train with them with --config.tokens={tmp_path}/many" in capsys.readouterr().out
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    tokenize_dataset.main(arguments(tmp_path / "longer", "--config.steps=6"))
    tokenize_dataset.main(arguments(tmp_path / "longer"))
    assert contents(tmp_path / "longer") == contents(tmp_path / "one")


@pytest.mark.slow
def test_killed_and_run_again(tmp_path):
    more = ["--config.steps=250", "--config.batch_size=8", "--config.optimizer.warmup=0 steps"]
    start = [sys.executable, "-m", "beit_jax.tokenize_dataset"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run([*start, *arguments(tmp_path / "whole", *more)], env=environment, check=True, capture_output=True)
    process = subprocess.Popen([*start, *arguments(tmp_path / "killed", *more)], env=environment, stderr=-3, stdout=-3)
    deadline = time.monotonic() + PATIENCE_S
    while not any((tmp_path / "killed").glob("tokens-*.npy")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = contents(tmp_path / "killed")
    (tmp_path / "killed" / "tokens-000000100-000000200.npy.part-00ff").write_bytes(b"cut short")
    done = subprocess.run(
        [*start, *arguments(tmp_path / "killed", *more)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(there) < 4 and contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--config=configs/tokenizer.py:runlocal", "--out=x"], "found task='tokenizer', expected the config of a pre"),
        (["--config=configs/pretrain.py:runlocal"], "--out is missing"),
        (["--out=x"], "--config is missing"),
        (["--config=configs/pretrain.py:runlocal", "--out=s3://x/y"], "--out=s3://x/y is a URL"),
        (["--config=configs/pretrain.py:runlocal", "--out=x", "--worker=2/2"], "found --worker=2/2, expected I/N"),
        (["--config=configs/pretrain.py:runlocal", "--out=x", "--stage=a"], "found --stage=a, expected no --stage"),
        (
            ["--config=configs/pretrain.py:runlocal", "--out=x", "--config.tokenizer.vocab=70000"],
            "tokenizer.vocab=70000; expected at most 65536",
        ),
    ],
)
def test_wrong_arguments(given, message):
    assert message in refused(given, tokenize_dataset)


@pytest.mark.slow
def test_a_folder_of_other_tokens(runs):
    before = contents(runs / "tokens")
    assert "seed is 0 there and 1 now" in refused(arguments(runs / "tokens", "--config.seed=1"), tokenize_dataset)
    assert contents(runs / "tokens") == before
