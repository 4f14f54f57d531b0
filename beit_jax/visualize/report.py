"""Turns a workdir into a table for the terminal and one self-contained `report.html`, with its pictures beside it."""

import base64
import dataclasses
import html
import json
import re
import statistics
from pathlib import Path

from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax.training import metrics
from beit_jax.visualize import curves

# What each task is looked at by: (metric in the log, metric of the evaluation, unit).
CURVES = {
    "tokenizer": (("loss", "eval/loss", "nats per pixel value"), ("", "eval/perplexity", "codebook perplexity")),
    "pretrain": (("loss", "eval/loss", "nats per masked token"), ("mlm_acc", "eval/mlm_acc", "masked-token accuracy")),
    "pretrain, all tokens": (("loss", "eval/loss", "nats per token"), ("all_acc", "eval/all_acc", "token accuracy")),
    "pretrain, pixels": (("loss", "eval/loss", "squared error of masked, normalised pixels"),),
    "pretrain, all pixels": (("loss", "eval/loss", "squared error of normalised pixels"),),
    "classify": (("loss", "eval/loss", "nats per image"), ("top1", "eval/top1", "top-1 accuracy")),
    "probe": (("", "eval/loss", "nats per image"), ("", "eval/top1", "top-1 accuracy of the best layer")),
    "segment": (("loss", "", "nats per pixel"), ("", "eval/miou", "mean intersection over union")),
}

EXPLAINED = {
    "perplexity": "exp of the entropy of the token frequencies: how many codes are really in use",
    "perplexity_share": "perplexity over the size of the vocabulary",
    "mlm_acc": "accuracy of the tokens predicted at masked positions",
    "all_acc": "accuracy of the tokens predicted at all positions, hidden or not",
    "mlm_acc_commonest": "the same for always guessing the commonest token",
    "absolute_error": "of the reconstruction, in units of the pixel range",
    "nll": "reconstruction term of the bound, nats per image",
    "kl": "divergence of the codes from uniform, nats per image",
    "overflow": "masked patches that the head left out; 0 is right",
    "top1": "share of evaluation images whose likeliest class is right",
    "top5": "share whose right class is among the five likeliest",
    "images": "evaluation images counted",
    "best_layer": "the layer with the best top1, counted from 1",
    "knn_top1": "top-1 accuracy of the nearest neighbours' vote, by the features of the best layer",
    "miou": "intersection over union, mean over classes",
    "mean_accuracy": "share of each class's pixels that are right, mean over classes",
    "pixel_accuracy": "share of labelled pixels that are right",
    "loss": "cross-entropy, squared error or negative bound on the evaluation set",
}


# The pictures that tasks make, in the order of telling.
CAPTIONS = {
    "original.png": "held-out images",
    "reconstruction.png": "what is left of them after the tokenizer: decoded from their tokens",
    "masked.png": "what BEiT sees",
    "prediction.png": "the tokens that BEiT puts in the masked places, decoded together with the visible ones",
    "filled.png": "the pixels that BEiT puts in the masked places",
    "recovered.png": "what BEiT predicts at every place, hidden or not",
    "image.png": "held-out images, contrast stretched",
    "label_map.png": "their true classes",
    "segmentation.png": "the classes found",
    "tokenizer.png": "the true tokens, decoded: the best that the row above could be",
}


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only; most groups have one run.

    Attributes:
      name: of the stage, without `_seedN`.
      task: of its config; for pre-training with what it predicts, unless that is the usual masked tokens.
      labels: which labels it learns from, in words; empty: all.
      runs: their folders.
      results: the last evaluation of each run.
    """

    name: str
    task: str
    labels: str
    runs: list[Path] = dataclasses.field(default_factory=list)
    results: list[dict[str, float]] = dataclasses.field(default_factory=list)


def write(workdir: Path) -> str:
    """Writes `report.html` and its pictures; returns the table for the terminal.

    Args:
      workdir: of a run, or of a recipe; stages that have not finished are left out.
    """
    groups = collect(workdir)
    (workdir / "report.html").write_text(_page(workdir, groups), encoding="utf-8")
    return f"{table(groups)}\n\nreport: {workdir / 'report.html'}"


def collect(workdir: Path) -> list[Group]:
    """The finished runs of a workdir, grouped by name without seed, in the order they ran."""
    config = configs.from_json((workdir / "config.json").read_text(encoding="utf-8"))
    stages = {name: (workdir / name, config[name]) for name in config.get("stages", ())}
    groups: dict[str, Group] = {}
    for stage, (run, settings) in (stages or {config.task: (workdir, config)}).items():
        if not (run / "result.json").exists():
            continue
        name = re.sub(r"_seed\d+$", "", stage)
        group = groups.setdefault(name, Group(name, _task(settings), _labels(settings.data)))
        group.runs.append(run)
        group.results.append(json.loads((run / "result.json").read_text(encoding="utf-8")))
    return list(groups.values())


def _task(settings: ConfigDict) -> str:
    target = f"{'all ' if settings.get('loss_on') == 'all' else ''}{settings.get('target', 'tokens')}"
    return settings.task if settings.task != "pretrain" or target == "tokens" else f"{settings.task}, {target}"


def _labels(data: ConfigDict) -> str:
    if data.labels_per_class:
        return f"{data.labels_per_class} labels a class"
    return f"{data.label_fraction:.0%} of the labels" if data.label_fraction < 1 else ""


def table(groups: list[Group]) -> str:
    """Stage, metric, mean, deviation over seeds, and every seed's value."""
    rows = [("stage", "metric", "mean", "sd", "each seed"), *_rows(groups)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _rows(groups: list[Group]) -> list[tuple[str, str, str, str, str]]:
    rows = []
    for group in groups:
        for metric in group.results[0]:
            values = [result[metric] for result in group.results]
            several = len(values) > 1
            spread = f"{statistics.stdev(values):.4g}" if several else ""
            each = " ".join(f"{value:.4g}" for value in values) if several else ""
            rows.append((group.name, metric, f"{statistics.mean(values):.4g}", spread, each))
    return rows


def _page(workdir: Path, groups: list[Group]) -> str:
    cells = "\n".join(
        f"<tr><td>{html.escape(stage)}</td><td title='{html.escape(EXPLAINED.get(metric, ''))}'>{metric}</td>"
        f"<td>{mean}</td><td>{spread}</td><td>{each}</td><td class='note'>{EXPLAINED.get(metric, '')}</td></tr>"
        for stage, metric, mean, spread, each in _rows(groups)
    )
    sections = "\n".join(_pictures(group) for group in groups)
    panels = "\n".join(_panels(workdir, groups))
    config = html.escape((workdir / "config.json").read_text(encoding="utf-8"))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>beit_jax: {html.escape(workdir.name)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }}
table {{ border-collapse: collapse; }} td, th {{ padding: 2px 12px 2px 0; text-align: left; }}
tr:nth-child(even) {{ background: #f5f5f5; }} .note {{ color: #777; }}
img {{ max-width: 100%; image-rendering: pixelated; }} figure {{ margin: 0 0 .6em; }} figcaption {{ color: #555; }}
.panels img {{ width: 520px; image-rendering: auto; }} pre {{ background: #f5f5f5; padding: 1em; overflow: auto; }}
</style></head><body>
<h1>{html.escape(workdir.name)}</h1>
<h2>Results</h2>
<table><tr><th>stage</th><th>metric</th><th>mean</th><th>sd</th><th>each seed</th><th></th></tr>
{cells}
</table>
{sections}
<h2>Curves</h2>
<div class="panels">
{panels}
</div>
<h2>Config</h2>
<details><summary>all keys</summary><pre>{config}</pre></details>
</body></html>
"""


def _pictures(group: Group) -> str:
    folder = group.runs[0] / "pictures"
    figures = "\n".join(
        f"<figure><figcaption>{html.escape(caption)}</figcaption>{_image((folder / file).read_bytes())}</figure>"
        for file, caption in CAPTIONS.items()
        if (folder / file).exists()
    )
    if not figures:
        return ""
    return f"<h2>{html.escape(group.name)}: what it sees</h2>\n{figures}"


def _panels(workdir: Path, groups: list[Group]) -> list[str]:
    """One panel for each metric of the runs that share a task and its labels, a colour for each of their stages."""
    panels = []
    for task, labels in dict.fromkeys((group.task, group.labels) for group in groups):
        same = [group for group in groups if (group.task, group.labels) == (task, labels)]
        for logged, evaluated, unit in CURVES[task]:
            found = {}
            for group in same:
                for metric, suffix in ((logged, "training"), (evaluated, "evaluation")):
                    if metric == logged and evaluated and len(same) > 1:
                        continue  # several stages in one panel are compared by their evaluation
                    seeds = [_curve(run, metric) for run in group.runs]
                    if metric and all(seeds):
                        found[f"{group.name}, {suffix}"] = seeds
            if found:
                title = ", ".join(filter(None, (task, labels)))
                png = curves.draw(f"{title}: {unit}", found, unit)
                name = re.sub(r"\W+", "_", f"curve {title} {evaluated.removeprefix('eval/') or logged}") + ".png"
                (workdir / name).write_bytes(png)
                panels.append(_image(png))
    return panels


def _curve(run: Path, metric: str) -> list[tuple[int, float]]:
    return [(line["epoch"], line[metric]) for line in metrics.read(run / metrics.FILE) if metric in line]


def _image(png: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
