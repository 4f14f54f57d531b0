"""BEiT v2 without weights from elsewhere: a first BEiT is the teacher of the tokenizer of a second one, on digits.

  python -m beit_jax.train --config configs/self_iteration.py --workdir runs/self_iteration
  python -m beit_jax.visualize report runs/self_iteration --markdown docs/results.md

BEATs trains tokenizers of sounds in such rounds (arXiv 2212.09058). Data, networks and fine-tuning are those of
configs/quickstart.py: a dVAE, a BEiT on its tokens, a VQ-KD that learns from that BEiT, and a BEiT on the tokens of
VQ-KD. Two controls differ in the teacher of VQ-KD: an encoder that was never trained; and a classifier that was trained
with all labels, which shows what tokens of this size can be worth and is no fair rival. All are then fine-tuned with
few labels, as the same network from scratch is.

Arguments: labels (per class), seeds (of each fine-tuning), layer (of the teacher that VQ-KD predicts), runlocal (a few
steps of each stage).
"""

from pathlib import Path

from ml_collections import ConfigDict

from beit_jax.config import defaults, parse_arg, python_file, recipe, shortened

quickstart = python_file(str(Path(__file__).with_name("quickstart.py")))
TEACHERS = {"beit": "stage:pretrain", "random": "random", "supervised": "stage:supervised"}


def get_config(arg: str = "") -> ConfigDict:
    """One tokenizer and one pre-training for each teacher, then fine-tunings of all."""
    arg = parse_arg(arg, labels=5, seeds=3, layer=3, runlocal=False)
    stages = {"tokenizer": quickstart.tokenizer(), "pretrain": quickstart.pretrain(), "supervised": supervised()}
    starts = {"from_dvae": "stage:pretrain", "from_scratch": ""}
    for name, source in TEACHERS.items():
        stages[f"tokenizer_{name}"] = vqkd(source, arg.layer)
        stages[f"pretrain_{name}"] = pretrain(f"stage:tokenizer_{name}")
        starts[f"from_vqkd_{name}"] = f"stage:pretrain_{name}"
    settings = ConfigDict(dict(labels=arg.labels, lr=8e-3, layer_decay=0.65, steps=500))  # those of the quick start
    for arm, start in starts.items():
        for seed in range(arg.seeds):
            stages[f"{arm}_seed{seed}"] = quickstart.classify(settings, seed, start)
    return recipe(**(shortened(stages, 10) if arg.runlocal else stages))


def supervised() -> ConfigDict:
    """A classifier with all labels."""
    config = quickstart.classify(ConfigDict(dict(labels=5, lr=2e-3, layer_decay=1.0, steps=1500)), 0, "")
    config.data.labels, config.batch_size = "all", 64
    return config


def vqkd(teacher: str, layer: int) -> ConfigDict:
    """A VQ-KD of the size of the encoder, with as many codes as the dVAE."""
    config = quickstart.digits(defaults("tokenizer", "vqkd"))
    config.model.update(dict(image_size=quickstart.SIZE, variant="Nano/4", vocab=32, code_width=8, decoder_depth=1))
    config.teacher.update(dict(kind="encoder", path=teacher, layer=layer))
    if teacher == "random":
        config.teacher.update(dict(variant="Nano/4", image_size=quickstart.SIZE, relative_position="shared"))
    config.batch_size, config.steps = 64, 1500
    opt = config.optimizer
    opt.lr, opt.min_lr, opt.warmup, opt.betas, opt.weight_decay = 2e-3, 1e-5, "100 steps", (0.9, 0.99), 1e-4
    config.data.ops = "decode|random_resized_crop(image_size, 0.7, 1.0, (0.9, 1.1))|keep('image')"
    config.data.eval_ops = "decode|resize(image_size)|keep('image')"
    return config


def pretrain(tokenizer: str) -> ConfigDict:
    """The quick start's pre-training, on tokens of VQ-KD, whose images lie in [0, 1]."""
    config, like = defaults("pretrain", "vqkd"), quickstart.pretrain()
    for name in ("model", "optimizer", "data", "batch_size", "steps", "log_every", "save_every", "eval_every"):
        config[name] = like[name]
    for ops in ("ops", "eval_ops"):
        config.data[ops] = config.data[ops].replace("|map_pixels('tokenizer_image')", "")
    config.tokenizer.init_from = tokenizer
    return config
