"""What the numbers of a run's last evaluation say, in sentences: whether it predicts better than its baseline."""

import math
import statistics
from collections.abc import Iterator

from beit_jax.tasks.tokenizer import COLLAPSED
from beit_jax.visualize.runs import Group

Numbers = dict[str, float]


def sentences(groups: list[Group]) -> list[str]:
    """A sentence for each stage and each of its judgements; none where a number that it needs is missing.

    The rules are those of `docs/healthy_run.md`: accuracies are compared with the majority baseline, and a perplexity
    with that of a collapsed codebook. Several seeds are judged by their means.
    """
    return [
        f"{group.name}{_describe_seeds(group)}: {finding}."
        for group in groups
        for judge in (_codebook, _masked_tokens, _classes)
        for finding in judge([result for result in group.results if result])
    ]


def _codebook(results: list[Numbers]) -> Iterator[str]:
    values = _means(results, "perplexity", "perplexity_fraction", "codes_used")
    if not values or not values[1]:
        return
    perplexity, fraction, used = values
    finding = f"perplexity {perplexity:.1f}; {used:.0f} of {perplexity / fraction:.0f} codes are used"
    yield finding + (
        f". Warning: a perplexity below {COLLAPSED:.0%} of the codes means that the codebook has collapsed; "
        "pre-training on its tokens has little to learn"
        if fraction < COLLAPSED
        else ""
    )


def _masked_tokens(results: list[Numbers]) -> Iterator[str]:
    if values := _means(results, "mlm_acc", "mlm_acc_majority"):
        accuracy, majority = values
        yield (
            f"accuracy at masked positions {_percent(accuracy)}, always guessing the most frequent token gives "
            f"{_percent(majority)}: {_compare(accuracy, majority, 'the most frequent token')}"
        )


def _classes(results: list[Numbers]) -> Iterator[str]:
    if values := _means(results, "top1", "majority", "images"):
        accuracy, majority, images = values
        yield (
            f"top-1 {_percent(accuracy)} on {images:.0f} held-out images (one image is {100 / images:.3g} points), "
            f"always guessing the largest class gives {_percent(majority)}: "
            f"{_compare(accuracy, majority, 'the largest class', images)}"
        )


def _compare(accuracy: float, majority: float, baseline: str, images: float = math.inf) -> str:
    points = round(100 * (accuracy - majority), 3)  # means of equal numbers may differ in their last bits
    if points <= 0:
        return f"it predicts no better than {baseline}"
    return f"{points:.3g} points above" + (", less than one image" if points < round(100 / images, 3) else "")


def _means(results: list[Numbers], *names: str) -> list[float]:
    """The mean of each number over the seeds; empty where one is missing."""
    if not results or any(name not in result for result in results for name in names):
        return []
    return [statistics.mean(result[name] for result in results) for name in names]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}%"


def _describe_seeds(group: Group) -> str:
    evaluated = sum(map(bool, group.results))
    return f" (mean of {evaluated} seeds)" if evaluated > 1 else ""
