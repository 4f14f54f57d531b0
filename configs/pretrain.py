"""BEiT pre-training: masked image modelling with discrete tokens (arXiv 2106.08254, section 2; official README).

  python -m beit_jax.train --config configs/pretrain.py --workdir runs/pretrain \\
      --config.tokenizer.init_from=runs/tokenizer
  python -m beit_jax.train --config configs/pretrain.py:variant=L/16,data=folder:PATH,epochs=150 --workdir ...
  python -m beit_jax.train --config configs/pretrain.py:runlocal --workdir runs/try       a minute on a laptop

Arguments
  variant  Ti/16 S/16 B/16 L/16; by default B/16
  data     a tfds name, folder:PATH, records of shard_dataset or digits; --config.data.statistics sets the pixel
           statistics, by default imagenet for ImageNet-1k and inception for other data
  epochs   length of the run; by default 800
  minutes, published   of fewer than 100,000 images of your own, or of any on a CPU: they get the settings of
           configs/own_images.py, and by default a length of 20 minutes, unless `variant`, `paper`, `fast` or
           `published` asks for those below
  paper    the plain ViT of the paper's main tables: absolute positions, no relative ones, no LayerScale
  fast     less work for the input, which decodes only the crop; the step jitters its colours and makes the tokenizer's
           view of it (device_augment; docs/data.md)
  v2       BEiT v2 (arXiv 2208.06366; official `beit2/`): two more blocks see the patches of an early layer and the last
           class token, and their prediction counts in the loss too; a mask hides exactly 75 patches; crops are
           larger, both views bicubic. By default 1600 epochs; up to 300, it has the settings of the official 300, with
           no stochastic depth. Its tokenizer is a VQ-KD
  kind     of the tokenizer, dvae, vqkd, kmeans, kmeans_features or random_projection (docs/tokenizers.md), the last of
           which needs no run; by default vqkd with v2, else dvae
  channels of the images, by default 3 (docs/other_images.md); others have no colour jitter
  runlocal a small network and a few steps, on digits or `data`

Hardware: the authors used 16 V100 (32 GB), 128 images each: about 5 days for 500k steps of B/16. Time and memory of
this code at this size: not measured.
Expected: B/16 on ImageNet-1k after 300 epochs: training loss 6.30, accuracy at masked positions 4.96% (the authors'
log, microsoft/unilm#383). A healthy run shows about five percent: a uniform guess has a loss of ln 8192 = 9.01.
v2 with the tokenizer of its paper (arXiv 2208.06366), top-1 after fine-tuning on ImageNet-1k at 224 pixels: B/16 85.0%
after 300 epochs, 85.5% after 1600; L/16 86.6% and 87.3%.
"""

from pathlib import Path

from ml_collections import ConfigDict

from beit_jax.config import defaults, parse_arg, python_file, set_channels, set_source, shorten
from beit_jax.own_images import fit_batch, fit_warmup

OWN_IMAGES = python_file(Path(__file__).with_name("own_images.py"))


def get_config(arg: str = "") -> ConfigDict:
    """The settings of the official README; those of its ImageNet-22k command for any data set but ImageNet-1k."""
    known = dict(variant="", data="", epochs=0.0, minutes=20.0, kind="", channels=3)
    arg = parse_arg(arg, **known, published=False, paper=False, fast=False, v2=False, runlocal=False)
    published = arg.variant or arg.published or arg.paper or arg.fast or arg.v2 or arg.kind or arg.runlocal
    chosen = dict(data=arg.data, minutes=arg.minutes, channels=arg.channels)
    own = None if published else OWN_IMAGES.stage("pretrain", arg.epochs, **chosen)
    if own:
        return own
    kind = arg.kind or ("vqkd" if arg.v2 else "dvae")
    config = defaults("pretrain", kind)
    config.epochs = arg.epochs or (1600.0 if arg.v2 else 800.0)
    set_source(config, arg.data or "imagenet2012")
    large, imagenet_1k = arg.variant.startswith("L"), config.data.source == "imagenet2012"

    config.model.variant = arg.variant or "B/16"
    config.model.layer_scale = 1e-5 if large else 0.1
    if arg.paper:
        config.model.update(dict(absolute_positions=True, relative_position="none", layer_scale=0.0))

    if kind == "random_projection":
        config.tokenizer.init_from = "random"

    config.optimizer.clip_norm = 1.0 if large and not arg.v2 else 3.0
    if arg.v2:
        config.model.early_layer = 21 if large else 9
        if config.epochs <= 300:
            config.model.drop_path, config.optimizer.betas = 0.0, (0.9, 0.98)
    if imagenet_1k or arg.v2:
        config.optimizer.warmup = "10 epochs"
    else:
        config.optimizer.warmup = "10000 steps"
    fit_batch(config)
    fit_warmup(config)

    if arg.runlocal:
        set_source(config, arg.data or "digits")
        config.batch_size = min(32, config.batch_size)
        shorten(config, 20, warmup=5)
        config.model.update(dict(variant="Micro/4", image_size=16, early_layer=int(arg.v2)))
        small = dict(dvae=dict(hidden=8, groups=3, blocks_per_group=1, decoder_init=8))
        small |= dict(vqkd=dict(variant="Micro/4", decoder_depth=1, target_width=32))
        config.tokenizer.update(dict(vocab=32, init_from="random", **small.get(kind, dict(patch=4))))
        if kind == "kmeans_features":
            config.tokenizer.features.update(dict(kind="encoder", variant="Micro/4", image_size=16))
    # What BEiT v2 does otherwise: exact masks, larger crops, a bicubic view for the tokenizer.
    masks = f"blockwise_mask(num_masked, min_block, grid{', exact=True' * arg.v2})"
    scale, method = (", 0.2", ", tokenizer_method='bicubic'") if arg.v2 else ("", "")
    scaled = "|map_pixels('tokenizer_image')" if kind == "dvae" else ""
    ending = f"|normalize(statistics){scaled}|{masks}|keep('image', 'tokenizer_image', 'mask')"
    config.data.ops = f"decode|color_jitter(0.4)|flip_lr|two_views(image_size, tokenizer_size{scale}{method})" + ending
    if arg.fast:
        config.device_augment = True
        config.data.ops = f"decode_view(image_size{scale})|flip_lr|{masks}|keep('image', 'mask')|keep_levels"
    config.data.eval_ops = f"decode|two_views_center(image_size, tokenizer_size{method})" + ending
    config.evals.ops = (
        "decode|resize_small(short_side)|central_crop(image_size)|normalize(statistics)|keep('image', 'label')"
    )
    return set_channels(config, arg.channels)
