"""Segmentation of scenes of digits, from BEiT and from scratch: the figures of docs/results.md.

  python -m beit_jax.train --config configs/digit_scenes.py --workdir runs/digit_scenes
  python -m beit_jax.visualize report runs/digit_scenes --markdown docs/results.md

Tokenizer and pre-training are those of configs/quickstart.py, on grey single digits of 16x16 pixels. Fine-tuning learns
which digit each pixel of a colourful scene of 32x32 pixels belongs to, with SETR-PUP, the paper's head. The positions
of the pre-trained encoder are interpolated to the larger grid. Both arms have the same settings, scenes and steps.

Arguments: scenes (to train on, up to 1000), seeds, steps, lr, layer_decay, runlocal (a few steps of each stage).
"""

from pathlib import Path

from ml_collections import ConfigDict

from beit_jax.config import load, parse_arg, python_file, recipe, shortened

quickstart = python_file(str(Path(__file__).with_name("quickstart.py")))
SEGMENT = Path(__file__).with_name("segment.py")


def get_config(arg: str = "") -> ConfigDict:
    """Tokenizer, pre-training, then pairs of fine-tunings."""
    arg = parse_arg(arg, scenes=1000, seeds=3, steps=1500, lr=4e-3, layer_decay=0.9, runlocal=False)
    stages = {"tokenizer": quickstart.tokenizer(), "pretrain": quickstart.pretrain()}
    for arm, source in (("beit", "stage:pretrain"), ("scratch", "")):
        for seed in range(arg.seeds):
            stages[f"scenes_{arm}_seed{seed}"] = segment(arg, seed, source)
    return recipe(**(shortened(stages, 4) if arg.runlocal else stages))


def segment(arg: ConfigDict, seed: int, init_from: str) -> ConfigDict:
    """One run of either arm."""
    config = load(f"{SEGMENT}:head=setr_pup,runlocal")
    config.model.update(dict(variant=f"Nano/{quickstart.PATCH}", layers=(1, 3), channels=32))
    config.seed, config.init_from, config.data.split = seed, init_from, f"train[:{arg.scenes}]"
    config.steps, config.log_every, config.save_every, config.eval_every = arg.steps, 250, 500, 250
    opt = config.optimizer
    opt.lr, opt.layer_decay, opt.warmup = arg.lr, arg.layer_decay, "50 steps"
    # A mild augmentation: with distorted colours and wide crops, neither arm learns the digits in so many steps.
    augment = "decode|random_ratio_resize(32, 128, 0.9, 1.2)|random_segment_crop(32, 1.0)|normalize(statistics)"
    config.data.ops = f"{augment}|pad_to(32, 32)|keep('image', 'label_map')"
    return config
