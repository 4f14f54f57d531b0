"""Arguments of the commands, and how they refuse wrong ones."""

import warnings

import pytest

from beit_jax import train
from beit_jax.errors import UserError

CONFIGS = {task: f"configs/{task}.py:runlocal" for task in ("tokenizer", "pretrain", "finetune", "probe", "segment")}
CONFIGS |= {kind: f"configs/tokenizer.py:kind={kind},runlocal" for kind in ("vqkd", "kmeans", "kmeans_features")}
CONFIGS["v2"] = "configs/pretrain.py:v2,runlocal"
CONFIGS["features"] = "configs/pretrain_features.py:runlocal"


def command(task, workdir, *overrides):
    return [f"--config={CONFIGS[task]}", f"--workdir={workdir}", *overrides]


def refused(arguments, program=train):
    with warnings.catch_warnings(), pytest.raises(UserError) as error:
        warnings.simplefilter("ignore")
        program.main(arguments)
    message = str(error.value)
    assert "\n" not in message
    return message
