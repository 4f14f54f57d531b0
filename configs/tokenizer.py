"""The visual tokenizer: the dVAE of DALL-E (arXiv 2102.12092, appendix A.2), as BEiT uses it; or VQ-KD of BEiT v2.

  python -m beit_jax.train --config configs/tokenizer.py --workdir runs/tokenizer
  python -m beit_jax.train --config configs/tokenizer.py:data=folder:PATH --workdir runs/tokenizer
  python -m beit_jax.train --config configs/tokenizer.py:kind=vqkd,teacher=RUN --workdir runs/vqkd
  python -m beit_jax.train --config configs/tokenizer.py:runlocal --workdir runs/try      a minute on a laptop

Arguments
  kind     dvae; vqkd: codes from which a decoder predicts what a teacher makes of the patches (arXiv 2208.06366);
           kmeans: means of patches' pixels, or kmeans_features: of what a teacher makes of them (arXiv 2407.09087);
           random_projection: random codes, one step that only measures them (arXiv 2202.01855); docs/tokenizers.md
  teacher  of vqkd and kmeans_features: a run with an encoder, a converted CLIP or DINO, or random;
           --config.teacher.layer: of a block
  classes  of the labels of evaluation images, with which tokens are compared (TCAS); 0: not compared
  data     a tfds name, folder:PATH, digits, or others of docs/data.md; by default imagenet2012
  steps    length of the run; the warm-up of the KL term and the annealing of the temperature follow
  minutes, published   of fewer than 100,000 images of your own, or of any on a CPU: they get the settings of
           configs/own_images.py, and a length of 20 minutes, unless `published` asks for those of the paper
  channels of the images, by default 3 (docs/other_images.md)
  runlocal a small network and a few steps, on digits or `data`

Hardware: OpenAI used 64 V100 (16 GB), 8 images each. Time and memory of this code at this size: not measured.
Expected: the paper's dVAE reconstructs ImageNet with a mean absolute error of 0.0856, and one that was trained again on
ImageNet-1k with 0.0880 (BEiT paper, table 8). Watch `perplexity`: if the tokenizer uses only a handful of its tokens,
pre-training has nothing to learn.
"""

from pathlib import Path

from ml_collections import ConfigDict

from beit_jax.config import defaults, parse_arg, python_file, set_channels, set_source, shorten
from beit_jax.errors import UserError
from beit_jax.own_images import fit_batch

CENTRE = "decode|resize_small(short_side)|central_crop(image_size)|keep('image')"
OWN_IMAGES = python_file(Path(__file__).with_name("own_images.py"))


def get_config(arg: str = "") -> ConfigDict:
    """The paper's settings, with a random resized crop in place of the random square crop of the paper's listing 1."""
    known = dict(kind="dvae", teacher="", classes=0, data="", steps=0, minutes=20.0, channels=3)
    arg = parse_arg(arg, **known, published=False, runlocal=False)
    config = defaults("tokenizer", arg.kind)  # an error for a kind that does not exist
    check_arguments(arg)
    if arg.kind != "dvae":
        made = compared(vqkd(config, arg) if arg.kind == "vqkd" else unlearned(config, arg), arg)
        return set_channels(made, arg.channels)
    chosen = dict(steps=arg.steps, data=arg.data, minutes=arg.minutes, channels=arg.channels)
    own = None if arg.published or arg.runlocal else OWN_IMAGES.stage("tokenizer", **chosen)
    if own:
        return compared(own, arg)
    config.batch_size = 512
    config.steps = arg.steps or 3_000_000
    set_source(config, arg.data or "imagenet2012")
    config.loss.annealing = "5%"  # 150,000 steps
    if arg.steps:
        config.loss.kl_warmup = "0.167%"  # the same fraction of the run as 5,000 steps of 3 million

    opt = config.optimizer
    opt.lr, opt.min_lr, opt.schedule = 1e-4, 1.25e-6, "cosine, 40%"  # 1.2 million steps
    opt.weight_decay, opt.ema = 1e-4, 0.999
    fit_batch(config)

    if arg.runlocal:
        set_source(config, arg.data or "digits")
        config.batch_size = min(32, config.batch_size)
        shorten(config, 20, warmup=5)
        config.model.update(dict(image_size=16, vocab=32, hidden=8, groups=3, blocks_per_group=1, decoder_init=8))
        config.loss.update(dict(kl_warmup="50%", annealing="50%"))
    # Squares of (8/12)^2 to (8/9)^2 of the area. On square images that is the paper's resize to 9/8..12/8 of the size
    # followed by a crop; on others the paper takes a square of the short side first.
    config.data.ops = (
        "decode|random_resized_crop(image_size, 0.44, 0.79, (1.0, 1.0))|flip_lr|map_pixels('image')|keep('image')"
    )
    config.data.eval_ops = "decode|resize_small(image_size)|central_crop(image_size)|map_pixels('image')|keep('image')"
    return set_channels(compared(config, arg), arg.channels)


def vqkd(config: ConfigDict, arg: ConfigDict) -> ConfigDict:
    """The published settings of the recommended tokenizer (official TOKENIZER.md); 2502 steps are an epoch there."""
    config.batch_size, config.epochs, config.model.image_size = 512, 0.0 if arg.steps else 100.0, 224
    config.steps = arg.steps
    set_source(config, arg.data or "imagenet2012")
    config.teacher.path = arg.teacher or "random"
    opt = config.optimizer
    opt.lr, opt.min_lr, opt.warmup, opt.betas = 2e-4, 1e-5, "10%", (0.9, 0.99)
    opt.weight_decay, opt.clip_norm = 1e-4, 0.0
    fit_batch(config)
    if arg.runlocal:
        set_source(config, arg.data or "digits")
        config.batch_size = min(32, config.batch_size)
        shorten(config, 20, warmup=5)
        config.model.update(dict(image_size=16, variant="Micro/4", vocab=32, decoder_depth=1))
        if not arg.teacher:
            config.teacher.update(dict(kind="encoder", variant="Micro/4", image_size=16))
    config.data.ops = "decode|random_resized_crop(image_size)|flip_lr|keep('image')"
    config.data.eval_ops = CENTRE
    return config


def check_arguments(arg: ConfigDict) -> None:
    """Raises UserError for an argument that the kind has no use for, or for a teacher that is missing."""
    learns_from_one = arg.kind in ("vqkd", "kmeans_features")
    if arg.teacher and not learns_from_one:
        raise UserError(
            f"teacher={arg.teacher} is for the kinds vqkd and kmeans_features, not for {arg.kind}; leave it out"
        )
    if learns_from_one and not arg.teacher and not arg.runlocal:
        raise UserError(
            f"kind={arg.kind} needs a teacher; expected teacher=RUN, a run with an encoder, a converted CLIP or DINO, "
            "or teacher=random, as a control"
        )
    if arg.kind == "random_projection" and arg.steps > 1:
        raise UserError(f"steps={arg.steps}, but a random projection learns nothing; leave steps out")


def unlearned(config: ConfigDict, arg: ConfigDict) -> ConfigDict:
    """Codes without a gradient. As in ClusterMIM's code, k-means sees the centres of images for 100 epochs, and has 50
    codes for pixels and 1000 for features; there, a batch has 128 images for features.
    """
    config.model.image_size, config.batch_size = 224, 256
    set_source(config, arg.data or "imagenet2012")
    if arg.kind == "random_projection":
        config.steps, config.optimizer.warmup = 1, ""
    else:
        config.epochs, config.steps, config.model.vocab = 0.0 if arg.steps else 100.0, arg.steps, 50
    if arg.kind == "kmeans_features":
        config.teacher.path, config.model.vocab = arg.teacher or "random", 1000
    fit_batch(config)
    if arg.runlocal:
        set_source(config, arg.data or "digits")
        config.batch_size = min(32, config.batch_size)
        shorten(config, 20, warmup=5)
        config.model.update(dict(image_size=16, patch=4, vocab=32))
        if arg.kind == "kmeans_features" and not arg.teacher:
            config.teacher.update(dict(kind="encoder", variant="Micro/4", image_size=16))
    config.data.ops = config.data.eval_ops = CENTRE
    return config


def compared(config: ConfigDict, arg: ConfigDict) -> ConfigDict:
    """The config, with labels of the evaluation images if `classes` asks for TCAS."""
    config.eval_classes = arg.classes
    if arg.classes:
        config.data.eval_ops = config.data.eval_ops.replace("keep('image')", "keep('image', 'label')")
    return config
