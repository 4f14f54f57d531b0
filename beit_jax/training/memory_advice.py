"""What to lower where a run does not fit into memory: the number of examples at once, with the value."""

import bisect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from beit_jax.errors import UserError
from beit_jax.training.sharding import batch_shards

if TYPE_CHECKING:
    from beit_jax.experiment import Experiment

SIZES = ("variant", "image_size", "hidden")  # keys of models that set how much memory an image takes


def advise(
    experiment: "Experiment",
    may_fit: Callable[["Experiment"], bool],
    fits: Callable[["Experiment"], bool] = lambda experiment: True,
) -> str:
    """What to set so that a run fits, in words.

    More micro-batches come first, because they train the same; then smaller batches.

    Args:
      experiment: that does not fit.
      may_fit: a quick guess. What is true for a batch must be true for smaller ones.
      fits: a slow answer, asked of the largest batch for which the guess is true, then of smaller ones.
    """
    for candidates in (_more_micro_batches(experiment), _smaller_batches(experiment)):
        first = bisect.bisect_left(range(len(candidates)), True, key=lambda index: may_fit(candidates[index]))
        for smaller in candidates[first:]:
            if fits(smaller):
                return _change(experiment, smaller)
    return _smaller_model(experiment)


def halve(experiment: "Experiment") -> str:
    """What to set so that half as many examples, or fewer, are in memory at once, in words."""
    most = _examples_at_once(experiment) // 2
    return advise(experiment, lambda smaller: _examples_at_once(smaller) <= most)


def _examples_at_once(experiment: "Experiment") -> int:
    return experiment.config.batch_size // experiment.config.optimizer.accumulate


def _more_micro_batches(experiment: "Experiment") -> Sequence["Experiment"]:
    size, now = experiment.config.batch_size, experiment.config.optimizer.accumulate
    return list(_allowed(experiment, ((size, count) for count in range(now + 1, size + 1) if size % count == 0)))


def _smaller_batches(experiment: "Experiment") -> Sequence["Experiment"]:
    if experiment.task.stored_tokens:
        return []  # these are of batches of one size
    shards, size = batch_shards(experiment.mesh), _examples_at_once(experiment)
    halves = (size >> times for times in range(size.bit_length()))
    sizes = sorted({half - half % shards for half in halves} - {0, experiment.config.batch_size}, reverse=True)
    return list(_allowed(experiment, ((smaller, 1) for smaller in sizes)))


def _allowed(experiment: "Experiment", batches: Iterator[tuple[int, int]]) -> Iterator["Experiment"]:
    for batch_size, accumulate in batches:
        try:
            yield experiment.with_batch(batch_size, accumulate)
        except UserError:
            continue  # such as an odd micro-batch where images are mixed in pairs


def _change(experiment: "Experiment", smaller: "Experiment") -> str:
    prefix = f"--config.{experiment.stage}." if experiment.stage else "--config."
    before, after = experiment.config, smaller.config
    flags = []
    if before.batch_size != after.batch_size:
        flags.append(f"{prefix}batch_size={after.batch_size}")
    if before.optimizer.accumulate != after.optimizer.accumulate:
        flags.append(f"{prefix}optimizer.accumulate={after.optimizer.accumulate}")
    same = f" (the same batch of {after.batch_size}, {_examples_at_once(smaller)} examples at a time)"
    return f"set {' '.join(flags)}{same if before.batch_size == after.batch_size else ''}"


def _smaller_model(experiment: "Experiment") -> str:
    names = ", ".join(f"model.{name}" for name in SIZES if name in experiment.config.get("model", {}))
    return (
        f"even a batch of {batch_shards(experiment.mesh)} does not fit: choose a smaller model"
        f"{f' ({names})' if names else ''}, or more devices that share its parameters (mesh.fsdp)"
    )
