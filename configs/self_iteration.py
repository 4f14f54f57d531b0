"""BEiT v2 without weights from elsewhere: a first BEiT is the teacher of the tokenizer of a second one, on digits.

  python -m beit_jax.train --config configs/self_iteration.py --workdir runs/self_iteration

BEATs trains tokenizers of sounds in such rounds (arXiv 2212.09058). The stages are those of the arms `dvae` (the first
round), `vqkd_beit` (the second), of two controls, and of training from scratch, in configs/tokenizers.py, which also
says what each arm is. docs/results.md has the figures.

Arguments: labels (per class), seeds, layer (of the teacher that VQ-KD predicts), runlocal (a few steps of each stage).
"""

from pathlib import Path

from ml_collections import ConfigDict

from beit_jax.config import parse_arg, python_file

tokenizers = python_file(str(Path(__file__).with_name("tokenizers.py")))
ARMS = ("dvae", "vqkd_beit", "vqkd_random", "vqkd_supervised", "scratch")


def get_config(arg: str = "") -> ConfigDict:
    """The rounds, the controls, and fine-tunings and probes of all."""
    arg = parse_arg(arg, labels=5, seeds=3, layer=3, runlocal=False)
    ending = f",labels={arg.labels},seeds={arg.seeds},layer={arg.layer}" + ",runlocal" * arg.runlocal
    return tokenizers.get_config(f"arms={'+'.join(ARMS)}{ending}")
