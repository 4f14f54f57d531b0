"""Fine-tuning for image classification (arXiv 2106.08254, section 3.1; official get-started page).

  python -m beit_jax.train --config configs/finetune.py --workdir runs/finetune --config.init_from=runs/pretrain
  python -m beit_jax.train --config configs/finetune.py:variant=L/16 --workdir ... --config.init_from=...
  python -m beit_jax.train --config configs/finetune.py:runlocal --workdir runs/try       a minute on a laptop

An empty init_from trains from scratch. Arguments: variant (Ti/16 S/16 B/16 L/16), data (a tfds name, folder:PATH or
digits), paper (the plain ViT of the paper's main tables), intermediate (the official settings for a model that was
fine-tuned on ImageNet-22k before: 30 epochs, a small learning rate), runlocal.

Hardware: the authors used 8 to 16 V100 (32 GB). Time and memory of this code at this size: not measured.
Expected on ImageNet-1k at 224, pre-trained on it for 800 epochs: B/16 83.2%, L/16 85.2% (paper, table 1). Not measured
here yet.
"""

from ml_collections import ConfigDict

from beit_jax.config import defaults, parse_arg, split_of

# (epochs, warm-up epochs, lr, layer decay, stochastic depth, weight decay, batch, mixup, CutMix)
RECIPES = {
    ("base", "pre-trained"): (100.0, 20.0, 4e-3, 0.65, 0.1, 0.05, 1024, 0.8, 1.0),
    ("large", "pre-trained"): (50.0, 5.0, 1e-3, 0.75, 0.2, 0.05, 1024, 0.8, 1.0),
    ("base", "intermediate"): (30.0, 5.0, 2e-5, 0.85, 0.1, 1e-8, 512, 0.0, 0.0),
    ("large", "intermediate"): (30.0, 5.0, 2e-5, 0.9, 0.4, 1e-8, 512, 0.0, 0.0),
}


def get_config(arg: str = "") -> ConfigDict:
    """The official settings; Ti and S take those of B."""
    arg = parse_arg(arg, variant="B/16", data="imagenet2012", paper=False, intermediate=False, runlocal=False)
    config = defaults("classify")
    size = "large" if arg.variant.startswith("L") else "base"
    recipe = RECIPES[size, "intermediate" if arg.intermediate else "pre-trained"]
    opt = config.optimizer
    config.epochs, opt.warmup_epochs, opt.lr, opt.layer_decay, drop_path, opt.weight_decay = recipe[:6]
    config.batch_size, config.mixup, config.cutmix = recipe[6:]
    opt.min_lr = 1e-6
    config.model.drop_path = drop_path
    config.model.variant = arg.variant
    if arg.paper:
        config.model.update(dict(absolute_positions=True, relative_position="none", layer_scale=0.0))
    config.data.source = arg.data
    config.data.eval_split = split_of(arg.data)

    if arg.runlocal:
        config.data.source, config.data.eval_split = "digits", "test"
        config.batch_size, config.epochs, config.steps = 32, 0.0, 20
        config.log_every = config.save_every = 10
        opt.warmup_epochs, opt.warmup_steps = 0.0, 5
        config.model.update(dict(variant="Micro/4", image_size=16))
    pixels = config.model.image_size
    statistics = "imagenet" if config.data.source == "imagenet2012" else "inception"
    normalize, keep = f"|normalize('{statistics}')", "|keep('image', 'label')"
    # Evaluation cuts the centre out of the short side resized to 256/224 of the size, without a margin from 384 on.
    short = pixels if pixels >= 384 else round(pixels * 256 / 224)
    augment = f"decode|random_resized_crop({pixels})|flip_lr|randaugment"
    config.data.ops = f"{augment}{normalize}|random_erasing{keep}"
    config.data.eval_ops = f"decode|resize_small({short})|central_crop({pixels}){normalize}{keep}"
    return config
