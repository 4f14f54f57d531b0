"""Published weights, pre-trained further on a folder of images, with k-NN and a linear probe before and after.

  python -m beit_jax.train --config configs/continue_pretraining.py:init=ID,data=folder:PATH --workdir runs/continued
  python -m beit_jax.train --config \\
      configs/continue_pretraining.py:init=microsoft/beit-base-patch16-224-pt22k,data=folder:PATH,minutes=60 \\
      --workdir runs/continued
  python -m beit_jax.train --config configs/continue_pretraining.py:init=ID,data=folder:PATH,tokenizer=ID ...

The stages are a tokenizer of the images, which k-means makes; `before`, nearest neighbours and a linear probe of the
weights as they are; the pre-training that starts from them; and `after`, the same evaluation of what it made. The
report shows both. Folders without class folders have no labels, and no evaluations. Variant and positions are those of
the weights, which are imported into the workdir once. docs/checkpoints.md has more.

Arguments
  init     folder or file of any format that from_pretrained reads, or owner/name, owner/name@revision of the hub
  data     folder:PATH
  image_size  side in pixels, to which positions and tables of the weights are interpolated; 0: that of the weights
  tokenizer   kmeans: means of the pixels of patches (arXiv 2407.09087); or a trained tokenizer, as init
  keep_head   the tokenizer given is that with which the weights were pre-trained, so that their head is kept; else the
           head is a new one
  codes    of k-means
  minutes  of the pre-training, by an estimate, and at most 100 epochs; the other stages come on top
  epochs   of the pre-training, in place of minutes
  batch    images of a step; 0: chosen
  flip     whether images may be mirrored
  channels of the images, by default those of the weights; others need
  inflate  average: the projection of patches gets the new channels (docs/other_images.md)
  statistics  of pixels, by default those of the weights
  runlocal a few steps of each stage

Expected: not measured yet on published weights. The learning rate is a third of that from scratch, and goes with the
square root of the batch; both are rules of thumb. --config.pretrain.optimizer.lr sets it.
"""

import math
from pathlib import Path

from ml_collections import ConfigDict

from beit_jax import foreign_weights, own_images
from beit_jax.config import defaults, parse_arg, python_file, recipe, set_source, shortened
from beit_jax.config.encoder import patch_grid
from beit_jax.errors import UserError
from beit_jax.machine import find_machine
from beit_jax.models import variants
from beit_jax.own_images import Images, Work

OWN_IMAGES = python_file(Path(__file__).with_name("own_images.py"))
ENCODER = ("variant", "absolute_positions", "relative_position", "layer_scale", "norm_eps")
SECOND_PREDICTION = ("early_layer", "head_layers", "shared_head")  # of BEiT v2
PROBED_EPOCHS, CLUSTERED_EPOCHS, MOST_EPOCHS = 100.0, 20.0, 100
LR, PROBE_LR = (5e-4, 2048), (4e-3, 1024)  # learning rates, and the batches that they are for

ARGUMENTS = dict(
    init="", data="", image_size=0, tokenizer="kmeans", keep_head=False, codes=50, minutes=20.0, epochs=0.0
)
ARGUMENTS |= dict(batch=0, flip=False, channels=0, inflate="", statistics="", runlocal=False)


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for weights and a folder, on the devices of this process."""
    arg = parse_arg(arg, **ARGUMENTS)
    check_arguments(arg)
    images, weights = own_images.look_at(arg.data), read_weights(arg)
    arg.batch = arg.batch or own_images.batch_of(images.train, find_machine())
    is_given, has_labels = arg.tokenizer != "kmeans", len(images.classes) > 1
    tokenizer = given_tokenizer(arg) if is_given else kmeans(arg, weights)
    stages = {} if is_given else {"tokenizer": tokenizer}
    if has_labels:
        stages["before"] = probe(arg, weights, arg.init)
    stages["pretrain"] = pretrain(arg, weights, tokenizer)
    set_length(stages["pretrain"], tokenizer, arg, images)
    if has_labels:
        stages["after"] = probe(arg, weights, "stage:pretrain")
    return recipe(**(shortened(stages, 4) if arg.runlocal else stages))


def check_arguments(arg: ConfigDict) -> None:
    """Raises UserError for arguments that are missing, or do not go together."""
    if not (arg.init and arg.data):
        raise UserError(
            f"{'data' if arg.init else 'init'} is missing; expected weights and a folder of images: "
            "configs/continue_pretraining.py:init=ID,data=folder:PATH"
        )
    if arg.keep_head and arg.tokenizer == "kmeans":
        raise UserError(
            "keep_head with tokenizer=kmeans: the head of the weights predicts the tokens of another tokenizer; leave "
            "keep_head out, or name the tokenizer of the weights, tokenizer=ID"
        )


def read_weights(arg: ConfigDict) -> ConfigDict:
    """The config of the weights, with the size and the channels of the images.

    Raises:
      UserError: there are none, they have no encoder, or are for images of other channels.
    """
    found = foreign_weights.config_of(arg.init)
    if found.task in ("tokenizer", "probe", "teacher"):
        raise UserError(
            f"init={arg.init} is a model of the task {found.task!r}; expected an encoder: a pre-training, a classifier "
            "or a segmentation"
        )
    weights = defaults("pretrain")
    weights.model.update({key: found.model[key] for key in ENCODER})
    with weights.ignore_type():  # a size may be one number or two
        weights.model.image_size = arg.image_size or found.model.image_size
    patch_grid(weights.model)
    for key in SECOND_PREDICTION:
        weights.model[key] = found.model[key] if key in found.model else weights.model[key]
    if not arg.keep_head:
        weights.init_new = ("^lm_head/",)
    if found.task != "pretrain":  # their heads are others, and what only pre-training has is new
        weights.init_optional = ("^(?!encoder/)", "^encoder/(mask_token$|norm/)")
    own, weights.data.channels = found.data.channels, arg.channels or found.data.channels
    if weights.data.channels != own and not arg.inflate:
        raise UserError(
            f"init={arg.init} is for images of {own} channels, and channels={arg.channels}: add inflate=average, which "
            "averages its projection of patches, and statistics=, or leave channels out"
        )
    return weights


def kmeans(arg: ConfigDict, weights: ConfigDict) -> ConfigDict:
    """Means of patches as large as those of the encoder."""
    config = shared(defaults("tokenizer", "kmeans"), arg, weights)
    with config.ignore_type():
        config.model.image_size = weights.model.image_size
    config.model.update(dict(patch=variants.parse(weights.model.variant)[1], vocab=arg.codes))
    config.epochs, config.eval_every = CLUSTERED_EPOCHS, 0
    config.data.ops = f"decode|random_resized_crop(image_size, 0.5, 1.0){OWN_IMAGES.flip(arg)}|keep('image')"
    config.data.eval_ops = "decode|resize_small(image_size)|central_crop(image_size)|keep('image')"
    return config


def pretrain(arg: ConfigDict, weights: ConfigDict, tokenizer: ConfigDict) -> ConfigDict:
    """BEiT on the tokens, from the weights; a head of other tokens is a new one."""
    kind = tokenizer.model.kind
    config = shared(defaults("pretrain", kind), arg, weights)
    with config.ignore_type():
        config.model.update({key: weights.model[key] for key in (*ENCODER, *SECOND_PREDICTION, "image_size")})
    config.model.drop_path, config.init_from, config.inflate = 0.0, arg.init, arg.inflate
    config.init_new, config.init_optional = weights.init_new, weights.init_optional
    config.tokenizer.init_from = "stage:tokenizer" if arg.tokenizer == "kmeans" else arg.tokenizer
    opt = config.optimizer
    opt.lr, opt.warmup, opt.clip_norm, opt.betas = learning_rate(LR, arg.batch), "10%", 3.0, (0.9, 0.98)
    config.data.statistics = arg.statistics
    method = ", tokenizer_method='bicubic'" if kind == "vqkd" else ""  # as officially
    scaled = "|map_pixels('tokenizer_image')" if kind == "dvae" else ""
    ending = (
        f"|normalize(statistics){scaled}|blockwise_mask(num_masked, min_block, grid)"
        "|keep('image', 'tokenizer_image', 'mask')"
    )
    views = "image_size, tokenizer_size"
    config.data.ops = f"decode{OWN_IMAGES.flip(arg)}|two_views({views}, 0.5, 1.0{method})" + ending
    config.data.eval_ops = f"decode|two_views_center({views}, 1.0{method})" + ending
    return config


def given_tokenizer(arg: ConfigDict) -> ConfigDict:
    """The config of the tokenizer that is given.

    Raises:
      UserError: there is none, or it is something else.
    """
    found = foreign_weights.config_of(arg.tokenizer)
    if found.task != "tokenizer":
        raise UserError(f"tokenizer={arg.tokenizer} is a model of the task {found.task!r}; expected a tokenizer")
    return found


def probe(arg: ConfigDict, weights: ConfigDict, encoder: str) -> ConfigDict:
    """Nearest neighbours and a linear probe of every layer, on features that are computed once."""
    config = shared(defaults("probe"), arg, weights)
    with config.ignore_type():
        config.model.update({key: weights.model[key] for key in (*ENCODER, "image_size")})
    config.model.drop_path, config.encoder.init_from = 0.0, encoder
    config.inflate = arg.inflate if encoder == arg.init else ""
    config.evals.kinds, config.cache_features, config.epochs = ("knn",), True, PROBED_EPOCHS
    opt = config.optimizer
    opt.lr, opt.min_lr, opt.weight_decay = learning_rate(PROBE_LR, arg.batch), 0.0, 1e-4
    config.data.statistics, config.eval_every = arg.statistics, 0
    config.data.ops = config.data.eval_ops = (
        "decode|resize_small(image_size)|central_crop(image_size)|normalize(statistics)|keep('image', 'label')"
    )
    return config


def shared(config: ConfigDict, arg: ConfigDict, weights: ConfigDict) -> ConfigDict:
    """What all stages share."""
    set_source(config, arg.data)
    config.batch_size, config.data.channels, config.data.shuffle_buffer = arg.batch, weights.data.channels, 20_000
    return config


def learning_rate(known: tuple[float, int], batch: int) -> float:
    """A learning rate for a batch, from that for another batch; Adam's goes with the square root."""
    rate, of_batch = known
    return rate * math.sqrt(batch / of_batch)


def set_length(config: ConfigDict, tokenizer: ConfigDict, arg: ConfigDict, images: Images) -> None:
    """Sets, in place, the length of the pre-training: its epochs, or what the minutes allow."""
    steps, priced = round(arg.epochs * images.train / arg.batch), config.copy_and_resolve_references()
    priced.tokenizer.init_from = "stage:tokenizer"
    if not steps:
        work = Work("pretrain", OWN_IMAGES.flops_of(priced, {"tokenizer": tokenizer}, images), arg.batch, images.train)
        steps = own_images.lengths({"pretrain": work}, find_machine(), images.pixels, arg.minutes)["pretrain"]
        steps = max(min(steps, MOST_EPOCHS * images.train // arg.batch), own_images.LEAST_STEPS)
    OWN_IMAGES.set_length(config, steps)
