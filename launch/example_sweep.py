"""A sweep over the learning rate and layer decay of fine-tuning, as an example to copy.

  python launch/sweep.py --config launch/example_sweep.py:runlocal --workdir runs/sweep --dry-run

Arguments: those of configs/finetune.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from beit_jax import config

FINETUNE = Path(__file__).resolve().parents[1] / "configs" / "finetune.py"


def get_config(arg: str = "") -> ConfigDict:
    """The config of fine-tuning, unchanged."""
    return config.load(f"{FINETUNE}:{arg}")


def get_sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    """Six members."""
    for lr in (1e-3, 2e-3, 4e-3):
        for layer_decay in (0.65, 0.75):
            yield {"optimizer.lr": lr, "optimizer.layer_decay": layer_decay}
