"""Semantic segmentation of ADE20K or of your own images (arXiv 2106.08254, section 3.2; official code likewise).

  python -m beit_jax.train --config configs/segment.py:data=folder:PATH/ADEChallengeData2016 --workdir runs/segment \\
      --config.init_from=runs/pretrain
  python -m beit_jax.train --config configs/segment.py:head=setr_pup,runlocal --workdir runs/try  a minute on a laptop
  python -m beit_jax.evaluate --checkpoint runs/segment --pictures overlays
  python -m beit_jax.evaluate --checkpoint runs/segment --config.inference.flip=True \\
      --config.inference.clamp_to_crop=True --config.inference.ratios="(0.5, 0.75, 1.0, 1.25, 1.5, 1.75)"

Arguments
  head     upernet (the released code) or setr_pup (the paper's tables 3, 4 and 10)
  variant  B/16 or L/16
  size     512 or 640: side of the crops in training, and short side of the images in evaluation
  v2       the settings of BEiT v2 for UPerNet (arXiv 2208.06366; official `beit2/semantic_segmentation`); stage=pt is
           from its pre-training for 1600 epochs
  stage    pt: from pre-training; pt2ft: after intermediate fine-tuning, such as the first stage of configs/transfer.py
  data     folder:PATH with images/{training,validation} and annotations/{training,validation}
  ade20k   label maps are numbered as in ADE20K: 0 is no class, and 1 to 150 are the classes. This is so without asking
           if the folder is called ADEChallengeData2016. Other label maps are taken as they are: 255 does not count, and
           the number of classes is found in the files, unless --config.model.num_classes gives it
  binary   masks of 0 and 255: 255 is class 1. By itself 255 means that a pixel does not count
  statistics  pixel statistics: by default those of the checkpoint in init_from. The released code has imagenet for all
           segmentation, also of encoders that were pre-trained with inception
  channels of the images, by default 3 (docs/other_images.md); others have no photometric distortion
  runlocal scenes of digits, which are generated without a download

Download ADE20K by hand (ADEChallengeData2016.zip): the data set scene_parse150 of tensorflow-datasets holds the
instances of another challenge. The last command is the multi-scale evaluation of the released code, in which the three
smallest scales are all raised to 1; without clamp_to_crop it is the paper's. In the evaluation, as officially, the
shorter side of an image is reduced or enlarged to `size`, unless its longer side were then above four times that.

Hardware: the authors used 8 V100 (32 GB), 2 images each. Time of this code at this size: not measured; memory:
docs/benchmarks.md. Expected mIoU: UPerNet B/16 at 640, pt2ft 53.6 (multi-scale 54.2), L/16 56.7 (57.0) (official
README); SETR-PUP B/16 at 512 from pre-training on ImageNet-1k 45.6, with intermediate fine-tuning 47.7 (paper, table
3). v2, UPerNet at 512: B/16 53.1, pt2ft 53.5; L/16 56.7, pt2ft 57.5 (official README of BEiT v2; users of its code got
52.3 to 52.8 for B/16, microsoft/unilm#1061 and #1110). Not measured here yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from beit_jax.config import defaults, parse_arg, set_channels, set_source, shorten

ADE20K = ("ADEChallengeData2016", "scene_parse150")  # names of the folder, and of the tfds data set
# head, size of the encoder, stage: lr, layer decay, stochastic depth
RECIPES = {
    ("upernet", "base", "pt"): (7e-4, 0.65, 0.1),
    ("upernet", "base", "pt2ft"): (3e-5, 0.9, 0.1),
    ("upernet", "large", "pt2ft"): (2e-5, 0.95, 0.2),
    ("setr_pup", "base", "pt"): (1e-3, 0.65, 0.1),
    ("setr_pup", "base", "pt2ft"): (1e-3, 0.65, 0.1),
}
V2_RECIPES = {
    ("upernet", "base", "pt"): (5e-5, 0.75, 0.15),
    ("upernet", "base", "pt2ft"): (5e-5, 0.85, 0.15),
    ("upernet", "large", "pt"): (4e-5, 0.9, 0.2),
    ("upernet", "large", "pt2ft"): (3e-5, 0.9, 0.2),
}
LAYERS = {
    ("upernet", "base"): (3, 5, 7, 11),
    ("upernet", "large"): (7, 11, 15, 23),
    ("setr_pup", "base"): (4, 7, 9, 11),
}


def get_config(arg: str = "") -> ConfigDict:
    """The settings of a row of the official table, or of the paper's appendix."""
    arg = parse_arg(
        arg,
        head="upernet",
        variant="B/16",
        v2=False,
        size=512,
        stage="pt",
        data="folder:ADEChallengeData2016",
        ade20k=False,
        binary=False,
        statistics="",
        channels=3,
        runlocal=False,
    )
    encoder = "large" if arg.variant.startswith("L") else "base"
    recipes = V2_RECIPES if arg.v2 else RECIPES
    if (arg.head, encoder, arg.stage) not in recipes:
        known, version = "; ".join(", ".join(row) for row in recipes), " of BEiT v2" * arg.v2
        found = f"{arg.head}, {encoder}, {arg.stage}{version}"
        raise ValueError(f"no settings are published for {found}; expected one of {known}")
    config = defaults("segment")
    opt = config.optimizer
    opt.lr, opt.layer_decay, drop_path = recipes[arg.head, encoder, arg.stage]
    opt.schedule, opt.min_lr, opt.warmup, opt.weight_decay = "linear", 0.0, "1500 steps", 0.05
    config.batch_size, config.steps, config.eval_every = 16, 160_000, 16_000
    config.model.update(dict(variant=arg.variant, image_size=arg.size, drop_path=drop_path, head=arg.head))
    config.model.layers = LAYERS[arg.head, encoder]
    config.model.channels = 256 if arg.head == "setr_pup" else 1024 if encoder == "large" else 768
    if encoder == "large":
        config.model.layer_scale = 1e-6  # of new parameters; a checkpoint has its own values
        if arg.size == 640:
            opt.accumulate = 2
    set_source(config, arg.data)
    config.data.statistics = arg.statistics
    config.data.shuffle_buffer = 20_000
    relabel = "map_labels({255: 1})|" if arg.binary else ""
    if arg.runlocal:
        runlocal(config)
    elif arg.ade20k or Path(arg.data.removeprefix("folder:")).name in ADE20K:
        config.model.num_classes, relabel = 150, "reduce_zero_label|"
    normalize, keep = "normalize(statistics)", "keep('image', 'label_map'"
    largest = 1.0 if arg.runlocal else 0.75  # fraction of a class in a crop; scenes of digits are mostly background
    config.data.ops = (
        f"decode|{relabel}random_ratio_resize(image_size, 4 * image_size)|random_segment_crop(image_size, {largest})"
        f"|flip_lr|photometric_distortion|{normalize}|pad_to(image_size, image_size)|{keep})"
    )
    canvas = "canvas_short, canvas_long"
    config.data.eval_ops = (
        f"decode|{relabel}resize_within({canvas})|{normalize}"
        f"|pad_for_evaluation({canvas}, label_canvas)|{keep}, 'size', 'label_size')"
    )
    return set_channels(config, arg.channels)


def runlocal(config: ConfigDict) -> None:
    """Shrinks everything to scenes of digits."""
    config.data.source, config.data.eval_split = "digit_scenes", "test"
    config.batch_size = 16
    shorten(config, 20, warmup=5)
    layers = (0, 0, 1, 1) if config.model.head == "upernet" else (0, 1)
    config.model.update(dict(variant="Micro/4", image_size=32, channels=16, auxiliary_channels=16, layers=layers))
    config.inference.update(dict(long_side=32, label_side=32))
