"""Writes `official.pth` and `official_legacy.pth`: a tiny model in PyTorch's two formats, as the official code saves.

    pip install torch && JAX_PLATFORMS=cpu python tests/golden/make_torch_files.py

The files in the repository: torch 2.13.0+cpu.
"""

import argparse
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "convert")]

from random_models import pretrained  # noqa: E402

from beit_jax.convert import names, torch_writer  # noqa: E402
from beit_jax.training.params import flatten  # noqa: E402


def main() -> None:
    flat = flatten(pretrained("classify", variant="8x2x2/4", size=8, classes=3).params)
    state = names.to_layout(flat, "unilm", "classify") | names.buffers(flat, "unilm", "classify")
    model = {name: torch_writer.to_tensor(value) for name, value in state.items()}
    saved = {"model": model, "epoch": 1, "args": argparse.Namespace(lr=1e-3)}
    torch.save(saved, HERE / "official.pth")
    torch.save(saved, HERE / "official_legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
