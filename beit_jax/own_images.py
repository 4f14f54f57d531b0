"""Chooses the settings of `configs/own_images.py` from the images of a folder, the devices and the time there is.

What is chosen depends on nothing else, so that the same command makes the same config again and continues its run. The
rules were tried on two cores, with 722 and 10,000 images to train on (docs/own_images.md); elsewhere they are rules of
thumb.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax.config.durations import in_steps
from beit_jax.data.sources import data_sets
from beit_jax.data.sources.examples import ArrayImages
from beit_jax.data.sources.folder import list_folder, list_pairs
from beit_jax.data.sources.folder_checks import check_folder, count_classes
from beit_jax.data.sources.image_sizes import some_encoded_sizes, some_sizes
from beit_jax.data.sources.label_choice import parse_labels
from beit_jax.data.sources.layout import is_folder, is_paired, path_of
from beit_jax.errors import UserError
from beit_jax.machine import Machine, find_machine
from beit_jax.models import variants

SIZES = (32, 64, 96, 128, 160, 224)  # of images, in pixels
LARGEST_ON_CPU = 64
GRID = 8  # patches along the side of an image below 224 pixels
MANY = 100_000  # images for which the published settings suit, if there is an accelerator
FEWEST = 10  # images, of which one is held out
START_S, STAGE_S = 25.0, 15.0  # before the first stage; of each stage to compile, evaluate and save
# Parts of the time, largest numbers of epochs, and the smallest number of steps.
SHARES = dict(tokenizer=0.15, pretrain=0.5, finetune=0.35)
MOST_EPOCHS = dict(tokenizer=800, pretrain=1600, finetune=200)
LEAST_STEPS = 20
# The largest encoder for so many images to train on, and whether a CPU trains it. Nano is the only one that was tried.
ENCODERS = (("B", 100_000, False), ("S", 10_000, False), ("Ti", 2_000, False), ("Nano", 0, True))


class Images(NamedTuple):
    """What a folder holds.

    Attributes:
      split: the split to train on.
      eval_split: the split that is held out.
      train: number of images to train on.
      held_out: number of images that are held out.
      classes: names; none without class folders.
      side: median of the shorter sides, in pixels.
      pixels: median of the numbers of pixels.
    """

    split: str
    eval_split: str
    train: int
    held_out: int
    classes: tuple[str, ...]
    side: int
    pixels: int


def look_at(source: str) -> Images:
    """Lists the images of `folder:PATH` or of a data set with a prefix, and reads the sizes of some from their headers.

    Raises:
      UserError: the source is neither.
    """
    if data_sets.has_prefix(source):
        return _look_at_data_set(source)
    root = path_of(source)
    if not root:
        raise UserError(
            f"data={source!r}; expected a folder of images, as data=folder:PATH, or one of {data_sets.describe()}"
        )
    check_folder(root)
    if is_paired(root):
        raise UserError(f"{root} has label maps, for segmentation: see configs/segment.py")
    count_classes(root, "train")
    chosen = configs.set_source(configs.defaults("classify"), source).data
    everything = len(list_folder(root, "train").paths)
    if everything < FEWEST:
        raise UserError(f"{root} holds {everything} images to train on; expected at least {FEWEST}")
    train, held_out = list_folder(root, chosen.split), list_folder(root, chosen.eval_split)
    classes = tuple(train.classes)
    return _describe(chosen, len(train.paths), len(held_out.paths), classes, some_sizes(train.paths))


def _look_at_data_set(source: str) -> Images:
    chosen = configs.set_source(configs.defaults("classify"), source).data
    train, held_out = (data_sets.select(source, split) for split in (chosen.split, chosen.eval_split))
    count = len(train.positions)
    if count < FEWEST - 1:
        raise UserError(f"{source} holds {count} images to train on; expected at least {FEWEST - 1}")
    names = train.class_names or map(str, range(train.num_classes))
    classes = () if train.labels is None else tuple(names)
    images = train.images
    sizes = [images.shape[2:0:-1]] if isinstance(images, ArrayImages) else some_encoded_sizes(images)
    return _describe(chosen, count, len(held_out.positions), classes, sizes)


def _describe(
    chosen: ConfigDict, train: int, held_out: int, classes: tuple[str, ...], sizes: Sequence[tuple[int, int]]
) -> Images:
    side, pixels = (round(statistics.median(map(measure, sizes))) for measure in (min, math.prod))
    return Images(chosen.split, chosen.eval_split, train, held_out, classes, side, pixels)


def is_small(source: str) -> bool:
    """Whether the sizes and lengths of the papers are too large for a user's own images, on these devices.

    They are not for images with label maps, which `look_at` refuses.
    """
    if not _is_there(source) or is_paired(path_of(source)):
        return False
    return find_machine().is_cpu or look_at(source).train < MANY


def _is_there(source: str) -> bool:
    """Whether a source is a folder or a data set with a prefix, and exists."""
    if data_sets.has_prefix(source):
        return Path(data_sets.path_of_data_set(source)).exists()
    folder = path_of(source)
    return bool(folder) and is_folder(folder)


class Plan(NamedTuple):
    """Sizes that are chosen.

    Attributes:
      size: side of the images that the encoder sees, in pixels.
      variant: of the encoder, with its patch size.
      codes: number of tokens.
      batch: images of a step.
    """

    size: int
    variant: str
    codes: int
    batch: int


def choose(images: Images, machine: Machine, given: Plan) -> Plan:
    """Sizes for a folder and a machine.

    Args:
      images: from `look_at`.
      machine: from `find_machine`.
      given: sizes that stay as they are; 0 or empty: chosen.

    Raises:
      UserError: no patch divides the size, or the variant is unknown.
    """
    largest = LARGEST_ON_CPU if machine.is_cpu else SIZES[-1]
    fitting = [size for size in SIZES if size <= min(images.side, largest)]
    size = given.size or (fitting or SIZES)[-1 if fitting else 0]
    name, _, patch = given.variant.partition("/")
    name = name or next(name for name, least, cpu in ENCODERS if images.train >= least and (cpu or not machine.is_cpu))
    variant = f"{name}/{patch or patch_of(size)}"
    variants.parse(variant)
    return Plan(size, variant, given.codes or codes_of(images), given.batch or batch_of(images.train, machine))


def patch_of(size: int) -> int:
    """Pixels along the side of a patch: 16 from 224 pixels on, below it about an eighth of the image.

    Raises:
      UserError: no patch of that order divides the size.
    """
    wanted = 16 if size >= SIZES[-1] else size / GRID
    patches = [patch for patch in range(2, size) if size % patch == 0 and wanted / 2 < patch < wanted * 2]
    if not patches:
        raise UserError(f"size={size} is divisible by no patch of about {wanted:g} pixels; choose a multiple of {GRID}")
    return min(patches, key=lambda patch: abs(patch - wanted))


def stride_of(patch: int) -> int:
    """Pixels along the side of a token, on images of about half the size: a power of two, at most half a patch."""
    return 2 ** int(math.log2(max(patch // 2, 1)))


def codes_of(images: Images) -> int:
    """A number of tokens that so many images can fill: 64 for 600, 256 for 10,000, 8192 for millions of images."""
    return min(max(2 ** round(math.log2(math.sqrt(8 * images.train))), 32), 8192)


def batch_of(images: int, machine: Machine) -> int:
    """A batch for so many images: at least ten steps an epoch if it can be, and a multiple of the devices.

    Raises:
      UserError: there are fewer images than devices.
    """
    largest = 64 if machine.is_cpu else 1024
    wanted = max(min(largest, 2 ** int(math.log2(max(images / 10, 1)))), min(8, 2 ** int(math.log2(images))))
    batch = wanted // machine.devices * machine.devices or machine.devices
    if batch > images:
        raise UserError(f"{images} images to train on do not fill a batch on {machine.devices} devices; add images")
    return batch


def labelled(images: Images, labels: str) -> int:
    """How many images have a label that `data.labels` takes, if the classes are of about one size.

    Raises:
      UserError: the text is no choice of labels.
    """
    choice = parse_labels(labels)
    count = choice.per_class * len(images.classes) or round(choice.fraction * images.train)
    return min(max(count, 1), images.train)


class Work(NamedTuple):
    """What decides how long a stage takes.

    Attributes:
      kind: of SHARES.
      flops: of a training step, for an image.
      batch: images of a step.
      images: that it trains on.
    """

    kind: str
    flops: int
    batch: int
    images: int


def lengths(works: Mapping[str, Work], machine: Machine, pixels: int, minutes: float) -> dict[str, int]:
    """The steps of stages, so that all of them together take the minutes, by an estimate.

    Args:
      works: the stages by name; stages of a kind share the time of their kind.
      machine: from `find_machine`.
      pixels: of an image file.
      minutes: of the whole run.
    """
    seconds = max(60 * minutes - START_S - STAGE_S * len(works), 12 * minutes)
    kinds = [work.kind for work in works.values()]
    whole = sum(SHARES[kind] for kind in set(kinds))
    steps = {}
    for name, work in works.items():
        share = SHARES[work.kind] / whole / kinds.count(work.kind)
        affordable = share * seconds / (machine.seconds_per_image(work.flops, pixels) * work.batch)
        useful = MOST_EPOCHS[work.kind] * work.images / work.batch
        steps[name] = max(round(min(affordable, useful)), LEAST_STEPS)
    return steps


def fit_batch(config: ConfigDict) -> None:
    """Makes the batch of a published recipe, in place, small enough for few images: at least four steps an epoch.

    The learning rate is scaled by the square root of the change, as suits Adam.
    """
    images = _own_images(config)
    batch = 2 ** int(math.log2(max(images / 4, 1)))
    if images and batch < config.batch_size:
        config.optimizer.lr *= math.sqrt(batch / config.batch_size)
        config.batch_size = batch


def fit_warmup(config: ConfigDict) -> None:
    """Makes the warm-up on a user's images, in place, a tenth of the run at most; the run's length is in epochs."""
    per_epoch = _own_images(config) // config.batch_size
    total = round(config.epochs * per_epoch)
    if per_epoch and in_steps(config.optimizer.warmup, per_epoch, total) > total / 10:
        config.optimizer.warmup = "10%"


def _own_images(config: ConfigDict) -> int:
    """Images to train on; 0 if the data are no folder and no data set with a prefix that exist."""
    source, split = config.data.source, config.data.split
    if not _is_there(source):
        return 0
    if data_sets.has_prefix(source):
        return len(data_sets.select(source, split).positions)
    folder = path_of(source)
    return len(list_pairs(folder, split) if is_paired(folder) else list_folder(folder, split).paths)
