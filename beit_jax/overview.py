"""What a run is going to do, as a table that is printed before its first step."""

import math
import statistics
from collections.abc import Mapping

from ml_collections import ConfigDict

from beit_jax.config.durations import in_steps
from beit_jax.config.recipes import HELD_OUT
from beit_jax.data.sources import data_sets
from beit_jax.data.sources.examples import ArrayImages
from beit_jax.data.sources.folder import list_folder
from beit_jax.data.sources.image_sizes import some_encoded_sizes, some_sizes
from beit_jax.data.sources.layout import is_paired, path_of
from beit_jax.experiment import Experiment
from beit_jax.machine import Machine
from beit_jax.models.image_size import area, in_words
from beit_jax.tasks.device_choices import describe_choices
from beit_jax.training import memory_check

HEAD = ("stage", "task", "images", "size", "model", "batch", "steps", "epochs", "warm-up", "lr", "minutes", "MiB")
PHOTOGRAPH = 500 * 375  # pixels, about as many as an image of ImageNet has


def describe_stages(experiments: Mapping[str, Experiment], machine: Machine, prefix: str) -> str:
    """A line for each stage, and notes on what the columns say.

    Args:
      experiments: of the stages that have not run yet, by name.
      machine: the devices.
      prefix: of a key on the command line, such as "--config.STAGE.".
    """
    rows = [HEAD, *(_cells(name, experiment, machine) for name, experiment in experiments.items())]
    minutes = [row[HEAD.index("minutes")] for row in rows[1:]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    steps = sum(map(float, minutes)) if "-" not in minutes else None
    total = "" if steps is None else f": {steps:.1f} minutes in all, without compiling, evaluating and saving"
    return "\n".join(
        [
            *lines,
            f"Minutes and MiB (of each device) are estimates for {machine.devices} {machine.kind} device(s){total}.",
            *_choices(experiments),
            *_splits(experiments),
            *_label_maps(experiments),
            f"Each value can be set: {prefix}KEY=VALUE; --help lists the keys.",
        ]
    )


def _cells(name: str, experiment: Experiment, machine: Machine) -> tuple[str, ...]:
    config, lengths = experiment.config, experiment.lengths
    model = config.get("model", {})
    images = lengths.per_epoch * config.batch_size
    sizes = model.get("variant", "") or f"{model.get('vocab', '?')} codes"
    return (
        name,
        config.task,
        f"{experiment.data.num_examples:,}",
        in_words(model.image_size) if "image_size" in model else "-",
        sizes,
        f"{config.batch_size:,}",
        f"{lengths.total:,}",
        f"{lengths.total * config.batch_size / images:.4g}",
        f"{in_steps(config.optimizer.warmup, lengths.per_epoch, lengths.total):,}",
        f"{config.optimizer.lr:.3g}",
        _minutes(experiment, machine),
        f"{memory_check.estimate(experiment) / 2**20:,.0f}",
    )


def _choices(experiments: Mapping[str, Experiment]) -> list[str]:
    """What was left to the device, a line for all stages that it decides alike."""
    lines = []
    for experiment in experiments.values():
        model = experiment.config.get("model", {})
        if "unroll" in model:
            lines.append(describe_choices(model, experiment.mesh.devices.flat[0]))
    return list(dict.fromkeys(filter(None, lines)))


def _minutes(experiment: Experiment, machine: Machine) -> str:
    """How long the steps will take; "-" if the task does not count its FLOPs."""
    flops, config = experiment.task.training_flops(), experiment.config
    if flops is None:
        return "-"
    seconds = machine.seconds_per_image(flops, _pixels(config)) * config.batch_size
    return f"{seconds * experiment.lengths.total / 60:.1f}"


def _pixels(config: ConfigDict) -> float:
    """Pixels of an image: of an array, the median of some files of a folder, else a guess."""
    if data_sets.has_prefix(config.data.source):
        images = data_sets.select(config.data.source, config.data.split).images
        if isinstance(images, ArrayImages):
            return math.prod(images.shape[1:3])
        return statistics.median(map(math.prod, some_encoded_sizes(images)))
    folder, size = path_of(config.data.source), config.get("model", {}).get("image_size", 224)
    if folder and not is_paired(folder):
        paths = list_folder(folder, config.data.split).paths
        return statistics.median(map(math.prod, some_sizes(paths)))
    return PHOTOGRAPH if area(size) >= 128**2 else area(size)


def _splits(experiments: Mapping[str, Experiment]) -> list[str]:
    """A line for each data source of which images are held out by a slice."""
    lines = []
    for experiment in experiments.values():
        data = experiment.config.data
        if (data.split, data.eval_split) == HELD_OUT:
            count = experiment.data.num_eval_examples
            by = "at random" if data_sets.has_prefix(data.source) else "by a hash of their names"
            lines.append(
                f"{data.source} has no validation split: {count:,} images, a tenth, are held out {by} "
                f"(data.split={data.split}, data.eval_split={data.eval_split})."
            )
    return list(dict.fromkeys(lines))


def _label_maps(experiments: Mapping[str, Experiment]) -> list[str]:
    """What the label maps hold, a line for each split."""
    from beit_jax.data.label_counts import describe

    lines = [
        describe(counts, experiment.config.model.num_classes)
        for experiment in experiments.values()
        for counts in experiment.data.label_counts
    ]
    return list(dict.fromkeys(lines))
