"""Label efficiency: BEiT and training from scratch with 1%, 10% and 100% of the labels.

  python -m beit_jax.train --config configs/label_efficiency.py:init=runs/pretrain --workdir runs/labels
  python -m beit_jax.train --config configs/label_efficiency.py:runlocal --workdir runs/try       a minute on a laptop

Both arms of a pair have the settings of configs/finetune.py and differ only in init_from. The report draws their
accuracy over epochs, with a panel for each fraction of the labels, like the paper's figure of convergence. Every arm
trains as many epochs as the recipe says, so small fractions get few steps: raise `epochs` for them.

Arguments: init (a pre-training run or checkpoint), data, variant and statistics as in configs/finetune.py (set the
latter if the pre-training has other pixel statistics than the data set), epochs (0: those of the recipe), seeds,
runlocal. The chosen examples of a tfds data set stay in memory, undecoded: 1.3 GB for 1% of ImageNet, 14 GB for 10%.
"""

from pathlib import Path

from ml_collections import ConfigDict

from beit_jax.config import load, parse_arg, recipe, shorten

FINETUNE = Path(__file__).with_name("finetune.py")
LABELS = {"1pct": "1%", "10pct": "10%", "100pct": "all"}


def get_config(arg: str = "") -> ConfigDict:
    """A recipe of six stages a seed."""
    known = dict(init="", data="imagenet2012", variant="B/16", statistics="", epochs=0.0, seeds=1, runlocal=False)
    arg = parse_arg(arg, **known)
    if not arg.init and not arg.runlocal:
        raise ValueError("init is empty, so that both arms would start from scratch; give a pre-training run")
    stages = {}
    for name, labels in LABELS.items():
        for seed in range(arg.seeds):
            stages[f"from_beit_{name}_seed{seed}"] = finetune(arg, labels, seed, arg.init)
            stages[f"from_scratch_{name}_seed{seed}"] = finetune(arg, labels, seed, "")
    return recipe(**stages)


def finetune(arg: ConfigDict, labels: str, seed: int, init_from: str) -> ConfigDict:
    """One run."""
    ending = f"variant={arg.variant},statistics={arg.statistics}" + (",runlocal" if arg.runlocal else "")
    config = load(f"{FINETUNE}:data={arg.data},{ending}")
    config.epochs = arg.epochs or config.epochs
    config.seed, config.init_from, config.data.labels = seed, init_from, labels
    if arg.runlocal:
        config.batch_size = 8
        shorten(config, 10)
    return config
