"""A table of results inside a Markdown page, replaced each time that the runs are made again."""

import statistics
from pathlib import Path

from beit_jax.errors import UserError
from beit_jax.visualize.report import Group

# By which numbers a task is judged: name in the results, words, factor, format.
HEADLINES = {
    "tokenizer": (("perplexity", "codes in use (perplexity)", 1, "{:.1f}"),),
    "pretrain": (("mlm_acc", "masked-token accuracy, %", 100, "{:.1f}"),),
    "pretrain, all tokens": (
        ("mlm_acc", "masked-token accuracy, %", 100, "{:.1f}"),
        ("all_acc", "accuracy of all tokens, %", 100, "{:.1f}"),
    ),
    "pretrain, pixels": (("loss", "squared error of masked, normalised pixels", 1, "{:.3f}"),),
    "pretrain, all pixels": (("loss", "squared error of normalised pixels", 1, "{:.3f}"),),
    "classify": (("top1", "top-1, %", 100, "{:.1f}"),),
    "segment": (
        ("miou", "mIoU, %", 100, "{:.1f}"),
        ("pixel_accuracy", "pixel accuracy, %", 100, "{:.1f}"),
    ),
    "probe": (
        ("top1", "linear probe of the best layer, top-1, %", 100, "{:.1f}"),
        ("best_layer", "that layer", 1, "{:.0f}"),
        ("knn_top1", "nearest neighbours, best layer, top-1, %", 100, "{:.1f}"),
        ("knn_best_layer", "that layer", 1, "{:.0f}"),
    ),
}


def table(groups: list[Group]) -> str:
    """One row for each stage and headline: mean, standard deviation over seeds, and each seed."""
    rows = ["| stage | measure | mean | sd | each seed |", "| --- | --- | --- | --- | --- |"]
    for group in groups:
        for metric, words, factor, form in HEADLINES[group.task]:
            values = [factor * result[metric] for result in group.results if metric in result]
            if not values:
                continue
            several = len(values) > 1
            spread = form.format(statistics.stdev(values)) if several else ""
            each = ", ".join(map(form.format, values)) if several else ""
            is_place = words == "that layer"  # of which a mean says nothing
            mean = "" if is_place and several else form.format(statistics.mean(values))
            rows.append(f"| {group.name} | {words} | {mean} | {'' if is_place else spread} | {each} |")
    return "\n".join(rows)


def replace(page: Path, name: str, text: str) -> None:
    """Puts text between the lines `<!-- begin NAME -->` and `<!-- end NAME -->` of a page.

    Raises:
      UserError: the page has no such lines.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    content = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, found, rest = content.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise UserError(f"{page} has no place for the table; expected the lines {begin} and {end} in it")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
