"""The page of a report: one HTML file that needs no network, on a screen of any width, light or dark."""

import base64
import html
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from beit_jax import config as configs
from beit_jax.visualize import curves
from beit_jax.visualize.report import Group, Run, rows

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
# By which every run is looked at, when something is wrong with it.
MORE_CURVES = (
    ("learning_rate", "", "learning rate"),
    ("grad_norm", "", "norm of the gradient"),
    ("examples_per_second", "", "images per second"),
    ("input_wait", "", "share of time waiting for input"),
)

EXPLAINED = {
    "perplexity": "exp of the entropy of the token frequencies: how many codes are really in use",
    "perplexity_share": "perplexity over the size of the vocabulary",
    "mlm_acc": "accuracy of the tokens predicted at masked positions",
    "all_acc": "accuracy of the tokens predicted at all positions, hidden or not",
    "mlm_acc_majority": "the same for always guessing the commonest token",
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

STYLE = """
:root { color-scheme: light dark; --text: #222; --faint: #666; --ground: #fff; --stripe: #f3f3f3; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ddd; --faint: #999; --ground: #161616; --stripe: #242424; }
}
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 1.5em auto; padding: 0 1em;
  color: var(--text); background: var(--ground); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; }
td, th { padding: 2px 12px 2px 0; text-align: left; vertical-align: top; }
tr:nth-child(even) { background: var(--stripe); } .note { color: var(--faint); min-width: 16em; }
figure { margin: 0 0 .6em; } figcaption { color: var(--faint); } summary { cursor: pointer; padding: .3em 0; }
img { max-width: 100%; height: auto; } figure img { image-rendering: pixelated; }
.panels img { width: 520px; background: #fff; border-radius: 6px; margin: 2px; }
@media (max-width: 700px) { td { white-space: nowrap; } }
pre { background: var(--stripe); padding: 1em; overflow: auto; font-size: 13px; }
"""


def html_of(title: str, groups: list[Group], beside: Path | None) -> str:
    """The text of the page.

    Args:
      title: of the page.
      groups: what there is to show, from `report.collect`.
      beside: folder into which curves are written as PNG too, such as `curve_pretrain_loss.png`; None: nowhere.
    """
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>beit_jax: {html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
{_states(groups)}
<h2>Results</h2>
{_results(groups)}
{"".join(map(_pictures, groups))}
<h2>Curves</h2>
<div class="panels">
{_panels(groups, CURVES, beside)}
</div>
<details><summary>learning rates, gradients, speed, waiting</summary>
<div class="panels">
{_panels(groups, dict.fromkeys(CURVES, MORE_CURVES), None)}
</div></details>
<h2>Speed</h2>
{_speed(groups)}
<h2>Config</h2>
{"".join(_config(group) for group in groups)}
</body></html>
"""


def _table(head: Sequence[str], body: Iterable[Sequence[str]], note: bool = False) -> str:
    """Cells are text; with `note` the last column is a remark."""

    def cells(row: Sequence[str], tag: str) -> str:
        styles = [""] * len(row)
        styles[-1] = ' class="note"' if note else ""
        return "".join(f"<{tag}{style}>{html.escape(cell)}</{tag}>" for style, cell in zip(styles, row))

    lines = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in body)
    return f'<div class="scroll"><table>\n<tr>{cells(head, "th")}</tr>\n{lines}\n</table></div>'


def _states(groups: list[Group]) -> str:
    going = [f"{group.name}: {run.state}" for group in groups for run in group.runs if run.state]
    if not groups:
        going = ["Nothing is logged yet."]
    elif going:
        going.insert(0, "Not finished; below is the last evaluation there was.")
    return "".join(f"<p>{html.escape(line)}</p>\n" for line in going)


def _results(groups: list[Group]) -> str:
    head = ("stage", "metric", "mean", "sd", "each seed", "")
    return _table(head, ((*row, EXPLAINED.get(row[1], "")) for row in rows(groups)), note=True)


def _pictures(group: Group) -> str:
    folder = group.runs[0].folder / "pictures"
    files = {file.name: file for file in sorted(folder.glob("*.png"))}
    figures = []
    for name in sorted(files, key=lambda name: [*CAPTIONS, *files].index(name)):
        caption = CAPTIONS.get(name, Path(name).stem.replace("_", " "))
        image = _image(files[name].read_bytes(), caption)
        figures.append(f"<figure><figcaption>{html.escape(caption)}</figcaption>{image}</figure>\n")
    return f"<h2>{html.escape(group.name)}: what it sees</h2>\n{''.join(figures)}" if figures else ""


def _panels(groups: list[Group], wanted: dict[str, tuple[tuple[str, str, str], ...]], beside: Path | None) -> str:
    """One panel for each metric of the runs that share a task and its labels, a colour for each of their stages."""
    panels = []
    for task, labels in dict.fromkeys((group.task, group.labels) for group in groups):
        same = [group for group in groups if (group.task, group.labels) == (task, labels)]
        for logged, evaluated, unit in wanted[task]:
            solid, dashed = _curves(same, evaluated or logged), _curves(same, logged if evaluated else "")
            if not solid and not dashed:
                continue
            title = ", ".join(filter(None, (task, labels)))
            png = curves.draw(f"{title}: {unit}", solid or dashed, unit, dashed if solid else {})
            if beside is not None:
                name = re.sub(r"\W+", "_", f"curve {title} {evaluated.removeprefix('eval/') or logged}") + ".png"
                (beside / name).write_bytes(png)
            panels.append(_image(png, f"{title}: {unit}"))
    return "\n".join(panels)


def _curves(groups: list[Group], metric: str) -> dict[str, list[curves.Curve]]:
    """By the name of the group, the curves of its seeds that have begun."""
    found = {group.name: [_curve(run, metric) for run in group.runs] for group in groups}
    kept = {name: [curve for curve in seeds if curve] for name, seeds in found.items()}
    return {name: seeds for name, seeds in kept.items() if seeds}


def _curve(run: Run, metric: str) -> curves.Curve:
    return [(line["epoch"], line[metric]) for line in run.log if metric in line]


def _speed(groups: list[Group]) -> str:
    """Medians over the lines of the logs, from which evaluation, checkpoints and compilation are left out."""
    body = []
    for group in groups:
        logs = [[line for line in run.log if "examples_per_second" in line] for run in group.runs]
        if not any(logs):
            continue
        batch = group.runs[0].config.batch_size
        rate = statistics.median(line["examples_per_second"] for log in logs for line in log)
        wait = statistics.median(line["input_wait"] for log in logs for line in log)
        minutes = sum(_seconds(batch, log) for log in logs) / 60
        body.append(
            (group.name, f"{batch}", f"{rate:.4g}", f"{1000 * batch / rate:.4g}", f"{wait:.0%}", f"{minutes:.1f}")
        )
    head = ("stage", "batch", "images/s", "ms a step", "waiting for input", "minutes in steps, all seeds")
    return f'{_table(head, body)}\n<p class="note">Medians; evaluation, checkpoints and compilation are left out.</p>'


def _seconds(batch: int, log: list[dict[str, float]]) -> float:
    """Time in training steps, up to the last line of the log."""
    before = [0, *(line["step"] for line in log)]
    return sum((line["step"] - last) * batch / line["examples_per_second"] for last, line in zip(before, log))


def _config(group: Group) -> str:
    """What differs from the defaults of the task, then all keys, of the first seed."""
    config = group.runs[0].config
    now, usual = configs.flatten(config), configs.flatten(configs.defaults(config.task))
    changed = [(key, repr(value), repr(usual.get(key))) for key, value in now.items() if usual.get(key) != value]
    return f"""<details><summary>{html.escape(group.name)}: {len(changed)} keys differ from the defaults</summary>
{_table(("key", "value", "default"), sorted(changed))}
<details><summary>all keys</summary><pre>{html.escape(configs.to_json(config))}</pre></details></details>
"""


def _image(png: bytes, words: str) -> str:
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
