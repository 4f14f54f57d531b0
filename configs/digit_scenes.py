"""Segmentation of scenes of digits, from BEiT against from scratch: figures of docs/results.md.

  python -m beit_jax.train --config configs/digit_scenes.py --workdir runs/digit_scenes
  python -m beit_jax.visualize report runs/digit_scenes --markdown docs/results.md

Tokenizer and pre-training are those of configs/quickstart.py: grey single digits of 16x16 pixels. Fine-tuning learns
which digit each pixel of a colourful scene of 32x32 belongs to, with UPerNet, from `scenes` labelled scenes; the
positions of the pre-trained encoder are resized to the larger grid. Both arms share settings, scenes and steps.

Arguments: scenes (to train on, up to 1000), seeds, steps, lr, layer_decay, runlocal (a few steps of everything).
"""

from pathlib import Path

from ml_collections import ConfigDict

from beit_jax.config import config_module, load, parse_arg, recipe

quickstart = config_module(str(Path(__file__).with_name("quickstart.py")))
SEGMENT = Path(__file__).with_name("segment.py")


def get_config(arg: str = "") -> ConfigDict:
    """Tokenizer, pre-training, then pairs of fine-tunings."""
    arg = parse_arg(arg, scenes=100, seeds=3, steps=500, lr=2e-3, layer_decay=0.65, runlocal=False)
    stages = {"tokenizer": quickstart.tokenizer(), "pretrain": quickstart.pretrain()}
    for arm, source in (("beit", "stage:pretrain"), ("scratch", "")):
        for seed in range(arg.seeds):
            stages[f"scenes_{arm}_seed{seed}"] = segment(arg, seed, source)
    if arg.runlocal:
        for config in stages.values():
            config.steps, config.optimizer.warmup_steps = 4, 1
            config.log_every = config.save_every = config.eval_every = 4
    return recipe(**stages)


def segment(arg: ConfigDict, seed: int, init_from: str) -> ConfigDict:
    """One run of either arm."""
    config = load(f"{SEGMENT}:runlocal")
    config.model.update(dict(variant=f"Nano/{quickstart.PATCH}", layers=(0, 1, 2, 3), channels=32))
    config.seed, config.init_from, config.data.split = seed, init_from, f"train[:{arg.scenes}]"
    config.steps, config.log_every, config.save_every, config.eval_every = arg.steps, 100, 500, 100
    opt = config.optimizer
    opt.lr, opt.layer_decay, opt.warmup_steps = arg.lr, arg.layer_decay, 50
    return config
