"""Linear probe and k-nearest neighbours on a frozen encoder (arXiv 2106.08254, appendix D; `run_linear_eval.py`).

  python -m beit_jax.train --config configs/probe.py --workdir runs/probe --config.encoder.init_from=runs/pretrain
  python -m beit_jax.train --config configs/probe.py:setting=code --workdir ... --config.encoder.init_from=...
  python -m beit_jax.train --config configs/probe.py:runlocal --workdir runs/try          a minute on a laptop

Arguments
  setting  paper: the mean of the patches after one layer in the middle (9 of 12, 14 of 24), 50 epochs;
           code: class token and mean side by side, a probe on every layer, 100 epochs;
           the learning rate changes once in an epoch; the best layer is reported
  cache    no augmentation, so that features are computed once: minutes in place of hours, and some points less
           accuracy. The features stay in memory: 4 bytes x images x layers x width
  statistics  pixel statistics, imagenet or inception; by default those of the checkpoint in encoder.init_from
  channels of the images, by default 3 (docs/other_images.md)
  variant, data, runlocal

--config.evals.kinds=knn adds nearest neighbours, of at most evals.images training images, by default 25,600.
An encoder that was fine-tuned has a table of relative positions in each block: add
--config.model.relative_position=per_block. The encoder of a VQ-KD tokenizer needs statistics=inception,
--config.model.relative_position=none, --config.model.absolute_positions=True and --config.model.layer_scale=0.
Layers count from 1. Expected on ImageNet-1k (paper, table 12): B/16 56.7%, L/16 73.5%; the last layer alone gives about
20% (microsoft/unilm#419). B/16 of BEiT v2: 80.1% (its paper; the settings of its probe were never released). Not
measured here yet.
"""

from ml_collections import ConfigDict

from beit_jax.config import defaults, parse_arg, set_channels, set_source, shorten


def get_config(arg: str = "") -> ConfigDict:
    """The settings of the paper or of the released code."""
    known = dict(setting="paper", variant="B/16", data="", statistics="", cache=False, channels=3, runlocal=False)
    arg = parse_arg(arg, **known)
    if arg.setting not in ("paper", "code"):
        raise ValueError(f"setting={arg.setting!r}; expected paper or code")
    config = defaults("probe")
    config.model.variant, config.model.drop_path = arg.variant, 0.0
    config.batch_size, config.epochs = 1024, 100.0
    if arg.setting == "paper":
        config.epochs, config.features = 50.0, "mean"
        config.layers = (14,) if arg.variant.startswith("L") else (9,)
    opt = config.optimizer
    opt.lr, opt.min_lr, opt.weight_decay = 4e-3, 0.0, 1e-4
    if arg.setting == "code":
        opt.schedule = "cosine_by_epoch"
    set_source(config, arg.data or "imagenet2012")
    config.cache_features = arg.cache

    if arg.runlocal:
        set_source(config, arg.data or "digits")
        config.cache_features = True
        config.batch_size = 32
        shorten(config, 40)
        config.model.update(dict(variant="Micro/4", image_size=16))
        config.encoder.init_from, config.layers = "random", ()
        config.evals.kinds, config.evals.k = ("knn",), 10
    config.data.statistics = arg.statistics
    ending = "|normalize(statistics)|keep('image', 'label')"
    config.data.eval_ops = f"decode|resize_small(short_side)|central_crop(image_size){ending}"
    config.data.ops = f"decode|random_resized_crop(image_size, method='bilinear')|flip_lr{ending}"
    if config.cache_features:
        config.data.ops = config.data.eval_ops
    return set_channels(config, arg.channels)
