"""Fine-tuning for image classification (arXiv 2106.08254, section 3.1; official get-started page and README).

  python -m beit_jax.train --config configs/finetune.py --workdir runs/finetune --config.init_from=runs/pretrain
  python -m beit_jax.train --config configs/finetune.py:variant=L/16 --workdir ... --config.init_from=...
  python -m beit_jax.train --config configs/finetune.py:runlocal --workdir runs/try       a minute on a laptop

With an empty init_from the same command trains from scratch.

Arguments
  recipe   what is trained:
             1k        from pre-training to ImageNet-1k
             22k       from pre-training to ImageNet-22k with its labels (intermediate fine-tuning)
             22k_to_1k from there to ImageNet-1k
             higher    ten more epochs at a higher image_size, after 1k; the paper states only the epochs
             cifar100  from pre-training to CIFAR-100 (paper, appendix); the paper searches lr in {2, 3, 4, 5}e-3
             deit      from scratch (arXiv 2012.12877); with init_from, the same from BEiT
  variant  Ti/16 S/16 B/16 L/16; by default B/16; Ti and S take the settings of B
  data     a tfds name, folder:PATH, records of shard_dataset or digits; 1% and 10% of ImageNet are
           imagenet2012_subset/1pct and /10pct; by default imagenet2012, for 22k records with the name imagenet21k
  channels of the images, by default 3 (docs/other_images.md); others have no randaugment
  epochs   length of the run; by default that of the recipe
  minutes  of fewer than 100,000 images of your own, or of any on a CPU: they get the settings of
           configs/own_images.py, and by default a length of 20 minutes. To start from published weights, give their
           `variant`: with recipe, variant, v2, image_size, statistics or paper
           the settings are those below
  v2       from a pre-training of BEiT v2 (arXiv 2208.06366; official `beit2/`): its settings of 1k, 22k and 22k_to_1k,
           where ImageNet-22k is called ImageNet-21k. Its authors have statistics=imagenet everywhere: give it with a
           published file that does not say so
  pretrained  epochs of that pre-training; by default 1600. Up to 300, 1k has the settings of the official 300
  image_size  224 (384 for higher), 384 or 512; the positions of a checkpoint of another size are interpolated
  statistics  pixel statistics: imagenet or inception; by default those of the checkpoint in init_from or, from
           scratch, imagenet for ImageNet-1k and inception for other data
  paper    the plain ViT of the paper's main tables, with the paper's stochastic depth of 0.1 for 1k, and with repeated
           augmentation for B (the released code has none)
  runlocal

From a run of BEiT v2, the blocks of its second prediction are left out.

Nobody states the settings of higher, except its epochs, nor those of cifar100 and deit for L/16. They are our choice.

Hardware: the authors used 8 to 16 V100 (32 GB). Time and memory of this code at this size: not measured.
Expected on ImageNet-1k, pre-trained on it for 800 epochs: B/16 83.2% at 224 and 84.6% at 384, L/16 85.2% and 86.3%
(paper, table 1); pre-trained on ImageNet-22k: B/16 83.7%, with 22k and 22k_to_1k 85.2%, at 384 86.8%; L/16 86.0%,
87.4%, 88.4%, and 88.6% at 512 (official README). CIFAR-100 90.1%. DeiT-B 81.8%.
v2, pre-trained on ImageNet-1k: B/16 85.0% after 300 epochs, 85.5% after 1600, with 22k and 22k_to_1k 86.5%; L/16 86.6%,
87.3% and 88.4% (official README of BEiT v2). None of all these was measured here yet.
"""

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from beit_jax.config import defaults, parse_arg, python_file, set_channels, set_source, shorten
from beit_jax.own_images import fit_batch

OWN_IMAGES = python_file(Path(__file__).with_name("own_images.py"))


class Recipe(NamedTuple):
    """Settings that differ between recipes; the warm-up is in epochs."""

    epochs: float
    warmup: float
    lr: float
    layer_decay: float
    drop_path: float
    weight_decay: float
    batch_size: int
    mixing: tuple[float, float] = (0.8, 1.0)  # mixup, CutMix
    mix_group: int = 64  # images on a GPU; where no command states it, the scripts' default
    erasing: bool = True
    repeats: int = 1
    min_lr: float = 1e-6
    ema: float = 0.0


RECIPES = {
    ("1k", "base"): Recipe(100.0, 20.0, 4e-3, 0.65, 0.1, 0.05, 1024, mix_group=128),
    ("1k", "large"): Recipe(50.0, 5.0, 1e-3, 0.75, 0.2, 0.05, 1024),
    ("22k", "base"): Recipe(90.0, 5.0, 3e-3, 0.65, 0.2, 0.05, 4096, mixing=(0.0, 0.0)),
    ("22k", "large"): Recipe(90.0, 5.0, 2e-3, 0.75, 0.2, 0.05, 2048, mixing=(0.0, 0.0)),
    ("22k_to_1k", "base"): Recipe(30.0, 5.0, 2e-5, 0.85, 0.1, 1e-8, 512, mixing=(0.0, 0.0)),
    ("22k_to_1k", "large"): Recipe(30.0, 5.0, 2e-5, 0.9, 0.4, 1e-8, 512, mixing=(0.0, 0.0)),
    ("higher", "base"): Recipe(10.0, 1.0, 2e-5, 0.85, 0.1, 1e-8, 512),
    ("higher", "large"): Recipe(10.0, 1.0, 2e-5, 0.9, 0.2, 1e-8, 512),
    ("cifar100", "base"): Recipe(150.0, 20.0, 3e-3, 0.65, 0.1, 0.3, 512, erasing=False),
    ("cifar100", "large"): Recipe(150.0, 20.0, 3e-3, 0.75, 0.1, 0.3, 512, erasing=False),
    ("deit", "base"): Recipe(300.0, 5.0, 1e-3, 1.0, 0.1, 0.05, 1024, repeats=3, min_lr=1e-5, ema=0.99996),
    ("deit", "large"): Recipe(300.0, 5.0, 1e-3, 1.0, 0.3, 0.05, 1024, repeats=3, min_lr=1e-5, ema=0.99996),
}
# Of BEiT v2, after 1600 epochs of pre-training; "1k" after 300 epochs has settings of its own.
V2_RECIPES = {
    ("1k", "base"): Recipe(100.0, 20.0, 5e-4, 0.6, 0.2, 0.05, 1024, mix_group=128),
    ("1k", "large"): Recipe(50.0, 5.0, 2e-4, 0.8, 0.2, 0.05, 1024),
    ("22k", "base"): Recipe(90.0, 20.0, 6e-4, 0.75, 0.1, 0.05, 4096, mix_group=128),
    ("22k", "large"): Recipe(90.0, 20.0, 6e-4, 0.75, 0.2, 0.05, 4096, mix_group=128),
    ("22k_to_1k", "base"): Recipe(30.0, 20.0, 5e-5, 0.75, 0.1, 0.05, 1024, mixing=(0.0, 0.0)),
    ("22k_to_1k", "large"): Recipe(20.0, 5.0, 7e-5, 0.8, 0.25, 0.05, 1024, mixing=(0.0, 0.0)),
}
V2_AFTER_300 = {
    ("1k", "base"): V2_RECIPES["1k", "base"]._replace(layer_decay=0.65, drop_path=0.1),
    ("1k", "large"): V2_RECIPES["1k", "large"]._replace(lr=5e-4),
}
DATA = {"22k": "imagenet21k", "cifar100": "cifar100"}


def get_config(arg: str = "") -> ConfigDict:
    """The settings of a recipe."""
    known = dict(recipe="", variant="", v2=False, pretrained=0.0, image_size=0, statistics="", paper=False)
    arg = parse_arg(arg, data="", epochs=0.0, minutes=20.0, channels=3, runlocal=False, **known)
    chosen = dict(data=arg.data, minutes=arg.minutes, channels=arg.channels)
    published = arg.runlocal or any(arg[name] for name in known)
    own = None if published else OWN_IMAGES.stage("from_beit_seed0", arg.epochs, **chosen)
    if own:
        return own
    arg.recipe, arg.variant = arg.recipe or "1k", arg.variant or "B/16"
    size = "large" if arg.variant.startswith("L") else "base"
    recipe, config = published_recipe(arg, size), defaults("classify")
    config.epochs, config.batch_size = arg.epochs or recipe.epochs, recipe.batch_size
    config.mixup, config.cutmix = recipe.mixing
    config.mix_group = recipe.mix_group
    opt = config.optimizer
    opt.lr, opt.min_lr, opt.warmup = recipe.lr, recipe.min_lr, f"{recipe.warmup:g} epochs"
    opt.layer_decay, opt.weight_decay, opt.ema = recipe.layer_decay, recipe.weight_decay, recipe.ema
    pixels = arg.image_size or (384 if arg.recipe == "higher" else 224)
    config.model.update(dict(variant=arg.variant, image_size=pixels, drop_path=recipe.drop_path))
    config.data.repeats = recipe.repeats
    if arg.paper:
        config.model.update(dict(absolute_positions=True, relative_position="none", layer_scale=0.0))
        config.data.repeats = 3 if size == "base" else 1
        if arg.recipe == "1k":
            config.model.drop_path = 0.1
    set_source(config, arg.data or DATA.get(arg.recipe, "imagenet2012"))
    fit_batch(config)

    if arg.runlocal:
        set_source(config, arg.data or "digits")
        config.batch_size = min(32, config.batch_size)
        shorten(config, 20, warmup=5)
        config.model.update(dict(variant="Micro/4", image_size=16))
    config.data.statistics = arg.statistics
    normalize, keep = "|normalize(statistics)", "|keep('image', 'label')"
    # Evaluation resizes the short side to 256/224 of the size (from 384 on: to the size), and crops the centre.
    augment = f"decode|random_resized_crop(image_size)|flip_lr|randaugment(statistics=statistics){normalize}"
    config.data.ops = augment + ("|random_erasing" if recipe.erasing else "") + keep
    config.data.eval_ops = f"decode|resize_small(short_side)|central_crop(image_size){normalize}{keep}"
    return set_channels(config, arg.channels)


def published_recipe(arg: ConfigDict, size: str) -> Recipe:
    """The settings of a recipe for a size, "base" or "large".

    Raises:
      ValueError: none are published for what the arguments name.
    """
    if arg.pretrained and not arg.v2:
        raise ValueError(f"pretrained={arg.pretrained:g} without v2; BEiT's settings are the same after any epochs")
    if arg.pretrained < 0:
        raise ValueError(f"pretrained={arg.pretrained:g}; expected a number of epochs above 0")
    if arg.v2 and arg.paper:
        raise ValueError("v2 and paper together; paper has the settings of BEiT's paper, not of BEiT v2's")
    recipes = V2_RECIPES if arg.v2 else RECIPES
    if 0 < arg.pretrained <= 300:
        recipes = recipes | V2_AFTER_300
    if (arg.recipe, size) not in recipes:
        known = ", ".join(dict.fromkeys(name for name, _ in recipes))
        raise ValueError(f"recipe={arg.recipe!r}; expected one of {known}{' with v2' * arg.v2}")
    return recipes[arg.recipe, size]
