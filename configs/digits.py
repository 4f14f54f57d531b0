"""BEiT, training from scratch and random features compared on the scanned digits: the figures of docs/results.md.

  python -m beit_jax.train --config configs/digits.py --workdir runs/digits
  python -m beit_jax.visualize report runs/digits --markdown docs/results.md

Settings, data and network are those of configs/quickstart.py. There is one tokenizer. Each seed has its own
pre-training, and then, at 1, 5 and 20 labels per class, a fine-tuning and a training from scratch, which differ only in
their initial parameters. Linear probes of every layer and k-nearest neighbours run on the frozen encoder of BEiT, and
on one that was never trained. They use all training labels.

Arguments: seeds, runlocal (a few steps of each stage).
"""

from pathlib import Path

from ml_collections import ConfigDict

from beit_jax.config import defaults, parse_arg, python_file, recipe, shortened

quickstart = python_file(str(Path(__file__).with_name("quickstart.py")))
LABELS = (1, 5, 20)


def get_config(arg: str = "") -> ConfigDict:
    """Tokenizer, pre-trainings, fine-tunings, probes."""
    arg = parse_arg(arg, seeds=3, runlocal=False)
    seeds = range(arg.seeds)
    stages = {"tokenizer": quickstart.tokenizer()}
    for seed in seeds:
        stages[f"pretrain_seed{seed}"] = quickstart.pretrain()
        stages[f"pretrain_seed{seed}"].seed = seed
    for labels in LABELS:
        for arm in ("beit", "scratch"):
            for seed in seeds:
                stages[f"{arm}_{labels}_labels_seed{seed}"] = finetune(labels, seed, arm)
    for arm in ("beit", "random"):
        for seed in seeds:
            stages[f"probe_{arm}_seed{seed}"] = probe(seed, f"stage:pretrain_seed{seed}" if arm == "beit" else "random")
    return recipe(**(shortened(stages, 4) if arg.runlocal else stages))


def finetune(labels: int, seed: int, arm: str) -> ConfigDict:
    """One run of either arm, with the quick start's settings."""
    arg = ConfigDict(dict(labels=labels, lr=8e-3, layer_decay=0.65, steps=500))
    config = quickstart.classify(arg, seed, f"stage:pretrain_seed{seed}" if arm == "beit" else "")
    config.batch_size = 32 if labels > 1 else 8  # out of ten
    return config


def probe(seed: int, source: str) -> ConfigDict:
    """Probes of every layer, on features that are computed once."""
    config = quickstart.digits(defaults("probe"))
    config.model.update(dict(variant=f"Nano/{quickstart.PATCH}", image_size=quickstart.SIZE, drop_path=0.0))
    config.seed, config.encoder.init_from, config.cache_features = seed, source, True
    config.evals.kinds, config.evals.k = ("knn",), 10
    config.batch_size, config.steps, config.eval_every = 256, 1000, 250
    # Features are small and not normalised: of seven rates from 0.004 to 10, the largest is best for both arms.
    config.optimizer.update(dict(lr=10.0, min_lr=0.0, weight_decay=1e-4))
    config.data.ops = config.data.eval_ops = "decode|resize(image_size)" + quickstart.ENDING
    return config
