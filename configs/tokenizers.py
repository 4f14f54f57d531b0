"""Tokenizers and other targets of the pre-training compared on the scanned digits: the figures of docs/results.md.

  python -m beit_jax.train --config configs/tokenizers.py --workdir runs/tokenizers
  python -m beit_jax.visualize report runs/tokenizers --arms --markdown docs/results.md
  python -m beit_jax.train --config configs/tokenizers.py:arms=dvae+kmeans+scratch,seeds=1 --workdir ...

Arms differ in what the masked patches are to be predicted as. Tokens, 32 of them:
  dvae               of the quick start's dVAE
  kmeans             means of patches' pixels (ClusterMIM, arXiv 2407.09087)
  random_projection  random codes; nothing is learned (BEST-RQ, arXiv 2202.01855)
  kmeans_features    means of what the encoder of `dvae` makes of patches (ClusterMIM)
  vqkd_beit          of a VQ-KD whose teacher is the encoder of `dvae`: the loop of configs/self_iteration.py
  vqkd_random        of a VQ-KD whose teacher was never trained: a control
  vqkd_supervised    of a VQ-KD whose teacher was trained with all labels, and so no fair rival: a bound
Numbers:
  pixels             of the patch
  features           what the encoder of `dvae` makes of the patch (MaskDistill, arXiv 2210.10615)
  average            what an average of the encoder's own past makes of it (data2vec, arXiv 2202.03555)
  scratch            nothing: no pre-training

Data, network, pre-training and fine-tuning are those of configs/quickstart.py, whose settings were not chosen again for
any arm. Each seed has its own tokenizers, pre-trainings, fine-tunings with few labels, and linear probes and nearest
neighbours on every layer of the frozen encoder, with all labels.

Arguments: arms (joined by +; empty: all; those that others need are added), seeds, labels (per class), layer (of the
teacher), runlocal (a few steps of each stage).
"""

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from beit_jax.config import defaults, parse_arg, python_file, recipe, shortened, with_task
from beit_jax.errors import UserError

HERE = Path(__file__).parent
quickstart, digits = (python_file(str(HERE / name)) for name in ("quickstart.py", "digits.py"))
MASKS = "|normalize('inception')|blockwise_mask(num_masked, 2, grid)|keep('image', 'mask')"


class Arm(NamedTuple):
    """What is predicted.

    Attributes:
      task: of the pre-training; empty: there is none.
      kind: of the tokenizer, if there is one.
      teacher: arm whose encoder is read, "supervised", "random", or empty.
    """

    task: str
    kind: str = ""
    teacher: str = ""


ARMS = {
    "dvae": Arm("pretrain", "dvae"),
    "kmeans": Arm("pretrain", "kmeans"),
    "random_projection": Arm("pretrain", "random_projection"),
    "kmeans_features": Arm("pretrain", "kmeans_features", "dvae"),
    "vqkd_beit": Arm("pretrain", "vqkd", "dvae"),
    "vqkd_random": Arm("pretrain", "vqkd", "random"),
    "vqkd_supervised": Arm("pretrain", "vqkd", "supervised"),
    "pixels": Arm("pretrain_pixels"),
    "features": Arm("pretrain_features", teacher="dvae"),
    "average": Arm("pretrain_features"),
    "scratch": Arm(""),
}


def get_config(arg: str = "") -> ConfigDict:
    """For each seed and arm a tokenizer, a pre-training, a fine-tuning and a probe."""
    arg = parse_arg(arg, arms="", seeds=3, labels=5, layer=3, runlocal=False)
    names = arg.arms.split("+") if arg.arms else list(ARMS)
    if unknown := [name for name in names if name not in ARMS]:
        raise UserError(f"arms={arg.arms} names {', '.join(unknown)}; expected some of {', '.join(ARMS)}")
    stages = {}
    for seed in range(arg.seeds):
        for name in with_teachers(names):
            stages |= arm_stages(name, seed, arg)
    return recipe(**(shortened(stages, 10) if arg.runlocal else stages))


def with_teachers(names: list[str]) -> list[str]:
    """The arms in order, with those that others read."""
    needed = {ARMS[name].teacher for name in names} & ARMS.keys()
    return [name for name in ARMS if name in {*names, *needed}]


def arm_stages(name: str, seed: int, arg: ConfigDict) -> dict[str, ConfigDict]:
    """All runs of one arm and seed, by name."""
    arm, stages, start = ARMS[name], {}, ""
    if arm.teacher == "supervised":
        stages[f"supervised_seed{seed}"] = supervised(seed)
    teacher = {"supervised": f"stage:supervised_seed{seed}", "random": "random"}
    section = dict(path=teacher.get(arm.teacher, f"stage:pretrain_{arm.teacher}_seed{seed}"), layer=arg.layer)
    if arm.kind:
        stages[f"tokenizer_{name}_seed{seed}"] = tokenizer(arm, section)
    if arm.task:
        start = f"stage:pretrain_{name}_seed{seed}"
        stages[f"pretrain_{name}_seed{seed}"] = pretrain(arm, section, f"stage:tokenizer_{name}_seed{seed}")
    few = ConfigDict(dict(labels=arg.labels, lr=8e-3, layer_decay=0.65, steps=500))  # those of the quick start
    stages[f"finetune_{name}_seed{seed}"] = quickstart.classify(few, seed, start)
    stages[f"probe_{name}_seed{seed}"] = digits.probe(seed, start or "random")
    for config in stages.values():
        config.seed = seed
    return stages


def supervised(seed: int) -> ConfigDict:
    """A classifier with all labels."""
    all_labels = ConfigDict(dict(labels=5, lr=2e-3, layer_decay=1.0, steps=1500))
    config = quickstart.classify(all_labels, seed, "")
    config.data.labels, config.batch_size = "all", 64
    return config


def tokenizer(arm: Arm, teacher: dict) -> ConfigDict:
    """A tokenizer of 16 tokens an image, out of 32."""
    if arm.kind == "dvae":
        config = quickstart.tokenizer()
    else:
        config = quickstart.digits(defaults("tokenizer", arm.kind))
        config.model.update(dict(image_size=quickstart.SIZE, vocab=32))
        config.batch_size, config.steps, config.optimizer.warmup = 64, 500, "50 steps"
        config.data.ops = "decode|random_resized_crop(image_size, 0.7, 1.0, (0.9, 1.1))|keep('image')"
        config.data.eval_ops = "decode|resize(image_size)|keep('image')"
    if arm.teacher:
        set_teacher(config, teacher)
    if arm.kind == "vqkd":
        config.model.update(dict(variant=f"Nano/{quickstart.PATCH}", code_width=8, decoder_depth=1))
        config.steps, opt = 1500, config.optimizer
        opt.lr, opt.min_lr, opt.warmup, opt.betas, opt.weight_decay = 2e-3, 1e-5, "100 steps", (0.9, 0.99), 1e-4
    elif arm.kind != "dvae":
        config.model.patch = quickstart.PATCH
    if arm.kind == "random_projection":
        config.model.code_width, config.steps, config.optimizer.warmup = 8, 1, ""
    config.eval_classes, config.data.eval_ops = (
        10,
        config.data.eval_ops.replace("keep('image')", "keep('image', 'label')"),
    )
    return config


def pretrain(arm: Arm, teacher: dict, source: str) -> ConfigDict:
    """The quick start's pre-training with another target; images of all tokenizers but the dVAE lie in [0, 1]."""
    like = quickstart.pretrain()
    if arm.task == "pretrain":
        config = defaults("pretrain", arm.kind)
        for name in (
            "model",
            "optimizer",
            "data",
            "evals",
            "batch_size",
            "steps",
            "log_every",
            "save_every",
            "eval_every",
        ):
            config[name] = like[name]
        config.tokenizer.init_from = source
        if arm.kind != "dvae":
            for ops in ("ops", "eval_ops"):
                config.data[ops] = config.data[ops].replace("|map_pixels('tokenizer_image')", "")
        return config
    config = with_task(like, arm.task)
    config.data.ops = "decode|random_resized_crop(image_size, 0.7, 1.0)" + MASKS
    config.data.eval_ops = "decode|resize(image_size)" + MASKS
    if arm.teacher:
        set_teacher(config, teacher)
    elif arm.task == "pretrain_features":
        config.target.update(dict(source="average", layers=2, decay=0.99))
    return config


def set_teacher(config: ConfigDict, teacher: dict) -> None:
    """An encoder of the quick start's size, which a random one must be told."""
    config.teacher.update(dict(kind="encoder", **teacher))
    if teacher["path"] == "random":
        size = dict(variant=f"Nano/{quickstart.PATCH}", image_size=quickstart.SIZE, relative_position="shared")
        config.teacher.update(size)
