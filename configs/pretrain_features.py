"""Pre-training on features in place of tokens: of a teacher, or of an average of the encoder's own past.

  python -m beit_jax.train --config configs/pretrain_features.py --workdir runs/data2vec
  python -m beit_jax.train --config configs/pretrain_features.py:teacher=runs/clip --workdir runs/distilled
  python -m beit_jax.train --config configs/pretrain_features.py:runlocal --workdir runs/try       a minute on a laptop

Without a teacher, the settings are those of data2vec's official command (arXiv 2202.03555; 16 GPUs, 128 images each),
except that the decay of the average is constant, where the command raises it from 0.999, and that attention has no
dropout. With one, they are those of configs/pretrain.py:v2,epochs=300: MaskDistill (arXiv 2210.10615) is close to it;
we do not have its settings.

Arguments
  teacher  a run with an encoder, or a converted CLIP or DINO (docs/vqkd.md); --config.teacher.layer: of a block
  variant  B/16 L/16; by default B/16
  data     a tfds name, folder:PATH, records of shard_dataset or digits
  epochs   length of the run; by default 800, with a teacher 300
  channels of the images, by default 3 (docs/other_images.md); others have no colour jitter
  runlocal

Time and memory of this code at this size: not measured.
Expected: top-1 after fine-tuning on ImageNet-1k of 84.2% for B/16 after 800 epochs of data2vec (its paper, table 1),
and of 84.8% for B/16 after 300 epochs with CLIP B/16 as teacher (a re-training of MaskDistill,
huggingface.co/drkostas/MaskDistill-ViT-Base).
"""

from ml_collections import ConfigDict

from beit_jax.config import defaults, parse_arg, set_channels, set_source, shorten
from beit_jax.own_images import fit_batch, fit_warmup


def get_config(arg: str = "") -> ConfigDict:
    """The settings of data2vec, or of a teacher."""
    arg = parse_arg(arg, teacher="", variant="B/16", data="", epochs=0.0, channels=3, runlocal=False)
    config, large = defaults("pretrain_features"), arg.variant.startswith("L")
    config.epochs = arg.epochs or (300.0 if arg.teacher else 800.0)
    set_source(config, arg.data or "imagenet2012")
    config.model.variant = arg.variant
    opt = config.optimizer
    opt.clip_norm, opt.warmup = 3.0, "10 epochs"
    if arg.teacher:
        config.teacher.path, opt.betas = arg.teacher, (0.9, 0.98)
        config.model.update(dict(drop_path=0.0, layer_scale=1e-5 if large else 0.1))
    else:
        config.target.source, opt.lr, config.num_masked = "average", 2e-3, 120
        config.model.update(dict(drop_path=0.25, layer_scale=1e-4))
    fit_batch(config)
    fit_warmup(config)
    if arg.runlocal:
        set_source(config, arg.data or "digits")
        config.batch_size, config.num_masked, config.target.layers = min(32, config.batch_size), 0, 2
        shorten(config, 20, warmup=5)
        config.model.update(dict(variant="Micro/4", image_size=16))
    ending = "|normalize(statistics)|blockwise_mask(num_masked, min_block, grid)|keep('image', 'mask')"
    config.data.ops = "decode|color_jitter(0.4)|flip_lr|random_resized_crop(image_size)" + ending
    config.data.eval_ops = "decode|resize_small(short_side)|central_crop(image_size)" + ending
    config.evals.ops = config.data.eval_ops.replace(ending, "|normalize(statistics)|keep('image', 'label')")
    return set_channels(config, arg.channels)
