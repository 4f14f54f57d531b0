"""The command of docs/checkpoints.md that continues from published weights: killed, resumed, and reported."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest
from image_models import make_images
from test_foreign_weights import publish

from beit_jax import evaluate, train
from beit_jax.config import from_json
from beit_jax.convert.pretrained import read_pretrained
from beit_jax.training.params import flatten

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_the_checkout")]
LIMIT_S = 400


def documented(repository, root, *arguments):
    """The command of the page for the folders of a test, short, as arguments of `beit_jax.train`."""
    text = (repository / "docs" / "checkpoints.md").read_text().replace("\\\n", "")
    command = shlex.split(re.search(r"^python -m beit_jax\.train (.*:init=ID,data=folder:PATH .*)$", text, re.M)[1])
    more = ",".join(("runlocal", *arguments))
    given = f"init={root}/hf,data=folder:{root}/images,{more}"
    command = [part.replace("init=ID,data=folder:PATH", given) for part in command]
    return [re.sub("^runs/continued$", f"{root}/run", part) for part in command]


def kill_after(command, text):
    """Starts a training in a process of its own, and kills it once it has printed a text; what it printed."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(jax.device_count())}
    program = [sys.executable, "-m", "beit_jax.train", *command]
    with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        os.set_blocking(process.stdout.fileno(), False)
        deadline, printed = time.monotonic() + LIMIT_S, ""
        while text not in printed:
            assert time.monotonic() < deadline and process.poll() is None, printed
            printed += (process.stdout.read() or b"").decode()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    return printed


def test_killed_resumed_and_reported(tmp_path, repository, capsys):
    """From a folder of transformers' layout for 16 pixels, on images of 24."""
    published, _ = publish(tmp_path / "hf")
    names = [f"{kind}/{number}.png" for kind in ("ant", "bee") for number in range(24)]
    make_images(tmp_path / "images", names)
    command = documented(repository, tmp_path, "image_size=24", "codes=16")
    printed = kill_after(command, "pretrain 2/4")
    run, weights = tmp_path / "run", [path.name for path in (tmp_path / "run" / "imported").iterdir()]
    assert "before 4/4  eval" in printed and len(weights) == 1 and not (run / "pretrain" / "result.json").exists()
    assert "initialised anew, by init_new: lm_head/bias, lm_head/kernel" in printed
    assert from_json((run / "config.json").read_text()).before.encoder.init_from == f"{tmp_path}/hf"

    train.main(command)
    printed = capsys.readouterr().out
    assert "tokenizer: finished before, skipped" in printed and "before: finished before, skipped" in printed
    results = {name: json.loads((run / name / "result.json").read_text()) for name in ("before", "pretrain", "after")}
    for name in ("before", "after"):
        assert {"top1", "knn_top1", "majority"} <= results[name].keys()
    assert results["before"]["loss"] != results["after"]["loss"]
    report = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", (run / "report.html").read_text()))
    for name in ("before", "after"):
        for metric in ("top1", "knn_top1"):
            assert re.search(rf" {name} {metric} [\d.]+ ", report), (name, metric)

    learned, _ = read_pretrained(str(run / "pretrain"))
    changed, table = flatten(learned), "encoder/relative_position/table"
    assert changed[table].shape[0] > flatten(published)[table].shape[0]  # of 6 x 6 patches in place of 4 x 4
    assert changed["lm_head/kernel"].shape[1] == 16

    # The original is gone, and the run has moved: what was imported is in it.
    shutil.rmtree(tmp_path / "hf")
    shutil.rmtree(run / "after")
    shutil.move(run, tmp_path / "moved")
    train.main([f"--config={tmp_path}/moved/config.json", f"--workdir={tmp_path}/moved"])
    assert json.loads((tmp_path / "moved" / "after" / "result.json").read_text()) == results["after"]
    capsys.readouterr()
    evaluate.main([f"--checkpoint={tmp_path}/moved/before", "--config.batch_size=8"])
    assert json.loads(capsys.readouterr().out) == pytest.approx(results["before"], rel=1e-3)
