"""Your images, from a folder to a classifier: tokenizer, BEiT, fine-tuning from BEiT and from scratch, report.

  python -m beit_jax.train --config configs/own_images.py:data=folder:PATH --workdir runs/own
  python -m beit_jax.train --config configs/own_images.py:data=folder:PATH,size=64,minutes=60,labels=10% --workdir ...

PATH holds a folder of images for each class, and may hold them in train/ and validation/; without validation/ a tenth
of the images is held out. Without class folders the run ends with the pre-training. Sizes, lengths, batch, warm-up,
number of tokens and the encoder are chosen from the number and the size of the images, the devices and the minutes. A
table shows them before the first step. Each can be set: by an argument, or any key by --config.STAGE.KEY=VALUE.

Arguments
  data     folder:PATH, or npz:FILE, npy:FOLDER, tars:FOLDER, hf:FOLDER (docs/data.md)
  size     side of the images for the network, in pixels; 0: chosen
  minutes  what the whole run should take on these devices, by an estimate; longer pre-training is better
  labels   to fine-tune on: all, 10% (of each class), "5 per class"
  variant  of the encoder, such as S/16; empty: chosen
  codes    number of tokens; 0: chosen
  batch    images of a step; 0: chosen
  seeds    fine-tunings of each arm
  channels of the images, by default 3; others need `statistics` (docs/other_images.md)
  statistics   of the pixels: imagenet, inception, or a mean and a deviation of each channel
  max_value    by which pixels of 16 bits, or of arrays of floats, are divided
  flip     whether images may be mirrored; leave it out for letters, digits and other things that have a direction
  runlocal a few steps of each stage

The two arms differ in their initial parameters alone. docs/own_images.md says how many images it takes before
pre-training pays, with the measurement.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from beit_jax import own_images
from beit_jax.config import defaults, parse_arg, recipe, set_channels, set_source, shortened
from beit_jax.errors import UserError
from beit_jax.machine import find_machine
from beit_jax.models import variants
from beit_jax.own_images import Images, Plan, Work

NORMALIZE = "|normalize(statistics)"

ARGUMENTS = dict(
    data="",
    size=0,
    minutes=20.0,
    labels="all",
    variant="",
    codes=0,
    batch=0,
    seeds=2,
    channels=3,
    statistics="",
    max_value=0.0,
    flip=False,
    runlocal=False,
)


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a folder, on the devices of this process."""
    arg = parse_arg(arg, **ARGUMENTS)
    if not arg.data:
        raise UserError("data is missing; expected a folder of images: configs/own_images.py:data=folder:PATH")
    stages = build(arg)
    return recipe(**(shortened(stages, 4) if arg.runlocal else stages))


def build(arg: ConfigDict, only: str = "") -> dict[str, ConfigDict]:
    """The stages by name; with `only`, one of them gets all the time."""
    images, machine = own_images.look_at(arg.data), find_machine()
    plan = own_images.choose(images, machine, Plan(arg.size, arg.variant, arg.codes, arg.batch))
    stages = {"tokenizer": tokenizer(plan, arg), "pretrain": pretrain(plan, arg)}
    if len(images.classes) > 1:
        some = own_images.labelled(images, arg.labels)
        batch = min(plan.batch, own_images.batch_of(some, machine))
        for arm, init_from in (("beit", "stage:pretrain"), ("scratch", "")):
            for seed in range(arg.seeds):
                stages[f"from_{arm}_seed{seed}"] = finetune(plan, arg, seed, init_from, batch)
    works = {}
    for name, config in stages.items():
        set_channels(config, arg.channels)
        config.data.statistics, config.data.max_value = arg.statistics, arg.max_value
        kind, count = ("finetune", some) if config.task == "classify" else (name, images.train)
        works[name] = Work(kind, flops_of(config, stages, images), config.batch_size, count)
    chosen = {name: work for name, work in works.items() if only in ("", name)}
    for name, steps in own_images.lengths(chosen, machine, images.pixels, arg.minutes).items():
        set_length(stages[name], steps)
    return stages


def stage(name: str, epochs: float = 0.0, steps: int = 0, **given: Any) -> ConfigDict | None:
    """One stage as a config of its own, for configs/tokenizer.py, pretrain.py and finetune.py.

    Args:
      name: of the stage.
      epochs: its length; 0: what the minutes allow.
      steps: its length, likewise.
      **given: arguments of this config; those that are missing have their default.

    Returns:
      None if the data are no images of the user's own, or so many, on an accelerator, that the published settings suit.

    Raises:
      UserError: the images have no classes, and the stage needs them.
    """
    arg = ConfigDict(ARGUMENTS | given)
    if not own_images.is_small(arg.data):
        return None
    stages = build(arg, name)
    if name not in stages:
        raise UserError(f"{arg.data} has no two classes; fine-tuning needs labels: a folder for each class")
    config = stages[name]
    if epochs:
        steps = max(round(epochs * own_images.look_at(arg.data).train / config.batch_size), 1)
    if steps:
        set_length(config, steps)
    for section in (config, config.get("tokenizer", {})):
        if section.get("init_from", ""):
            section.init_from = ""  # --config.init_from names a run instead
    return config


def tokenizer(plan: Plan, arg: ConfigDict) -> ConfigDict:
    """A small dVAE on images of half the size, as officially: a token for each patch of the encoder's image.

    The KL term has its full weight from the first step: without it, only a handful of tokens is used.
    """
    config = shared("tokenizer", plan, arg)
    _, patch = variants.parse(plan.variant)
    stride = own_images.stride_of(patch)
    size = plan.size // patch * stride
    config.model.update(dict(image_size=size, vocab=plan.codes, hidden=16, groups=stride.bit_length()))
    config.model.update(dict(blocks_per_group=1, decoder_init=32))
    config.loss.update(dict(kl_weight=3.0, kl_warmup="", annealing="100%"))
    opt = config.optimizer
    opt.lr, opt.min_lr, opt.weight_decay, opt.clip_norm = 1e-2, 1e-4, 1e-4, 1.0
    config.data.ops = f"decode|random_resized_crop(image_size, 0.5, 1.0){flip(arg)}|map_pixels('image')|keep('image')"
    config.data.eval_ops = "decode|resize(image_size)|map_pixels('image')|keep('image')"
    return config


def pretrain(plan: Plan, arg: ConfigDict) -> ConfigDict:
    """BEiT on the tokens; masks hide two fifths of the patches, as officially."""
    config = shared("pretrain", plan, arg)
    config.model.update(dict(variant=plan.variant, image_size=plan.size, drop_path=0.0))
    config.tokenizer.init_from = "stage:tokenizer"
    opt = config.optimizer
    opt.lr, opt.clip_norm, opt.betas = 2e-3, 3.0, (0.9, 0.98)
    ending = (
        f"{NORMALIZE}|map_pixels('tokenizer_image')|blockwise_mask(num_masked, min_block, grid)"
        "|keep('image', 'tokenizer_image', 'mask')"
    )
    config.data.ops = f"decode{flip(arg)}|two_views(image_size, tokenizer_size, 0.5, 1.0)" + ending
    config.data.eval_ops = "decode|two_views_center(image_size, tokenizer_size, 1.0)" + ending
    config.evals.ops = f"decode|resize(image_size){NORMALIZE}|keep('image', 'label')"
    return config


def finetune(plan: Plan, arg: ConfigDict, seed: int, init_from: str, batch: int) -> ConfigDict:
    """A classifier, of either arm. Evaluation sees the whole image, squeezed to a square if it is none."""
    config = shared("classify", plan, arg)
    config.model.update(dict(variant=plan.variant, image_size=plan.size, drop_path=0.1))
    config.seed, config.init_from, config.data.labels, config.batch_size = seed, init_from, arg.labels, batch
    opt = config.optimizer
    opt.lr, opt.min_lr, opt.layer_decay = 4e-3, 1e-5, 0.65
    ending = f"{NORMALIZE}|keep('image', 'label')"
    config.data.ops = f"decode|random_resized_crop(image_size, 0.3, 1.0){flip(arg)}" + ending
    config.data.eval_ops = "decode|resize(image_size)" + ending
    return config


def shared(task: str, plan: Plan, arg: ConfigDict) -> ConfigDict:
    """What all stages share."""
    config = set_source(defaults(task), arg.data)
    config.batch_size, config.optimizer.warmup = plan.batch, "5%"
    config.data.shuffle_buffer = 20_000
    return config


def flip(arg: ConfigDict) -> str:
    """The op that mirrors half of the images, if they may be mirrored."""
    return "|flip_lr" if arg.flip else ""


def flops_of(config: ConfigDict, stages: dict[str, ConfigDict], images: Images) -> int:
    """FLOPs of a training step of a stage, for an image."""
    from beit_jax.experiment_tokenizer import fill_in_tokenizer
    from beit_jax.tasks import create_task  # JAX, which `--help` and most mistakes do not need

    config = fill_in_tokenizer(config, Path(), {f"stage:{name}": stage for name, stage in stages.items()})
    if config.task == "classify":
        config.model.num_classes = len(images.classes)
    return create_task(config).training_flops()


def set_length(config: ConfigDict, steps: int) -> None:
    """Sets, in place, the length of a stage, and how often it logs, evaluates and saves."""
    config.steps = steps
    config.log_every = max(min(steps // 20, 50), 1)
    config.eval_every = -(-steps // 4)
    config.save_every = min(config.eval_every, 500)
