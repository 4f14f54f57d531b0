"""The page of a report: one HTML file that needs no network, on a screen of any width, light or dark."""

import base64
import html
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax.config.tokenizer_kinds import kind_of
from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import write_bytes
from beit_jax.runtime.csv_table import read_csv
from beit_jax.tasks import Curve, Table
from beit_jax.training import metrics
from beit_jax.visualize import classification, curves, findings
from beit_jax.visualize.runs import Group, Run
from beit_jax.visualize.table import HEAD, result_rows

# Panels of every run, for when something is wrong with it.
MORE_CURVES = (
    Curve("learning_rate", "", "learning rate"),
    Curve("grad_norm", "", "norm of the gradient"),
    Curve("examples_per_second", "", "images per second"),
    Curve("input_wait", "", "fraction of time waiting for input"),
)

NATS = (
    "nats: the unit of the negative natural logarithm of a probability. Guessing evenly among n answers has a loss of "
    "ln n nats, 0.693 for two; being sure of the right answer has 0. The loss of a density, as that of pixels, may be "
    "below 0."
)
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


def render_page(title: str, groups: list[Group], curve_folder: Path | None) -> str:
    """The text of the page.

    Args:
      title: of the page.
      groups: what there is to show, from `runs.collect_runs`.
      curve_folder: where curves are written as PNG too, such as `curve_pretrain_loss.png`; None: nowhere.
    """
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>beit_jax: {html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
{_states(groups)}
{_findings(groups)}
<h2>Results</h2>
{_results(groups)}
{_note_on_nats(groups)}
{"".join(map(_pictures, groups))}
<h2>Curves</h2>
<div class="panels">
{_panels(groups, None, curve_folder)}
</div>
<details><summary>learning rates, gradients, speed, waiting</summary>
<div class="panels">
{_panels(groups, MORE_CURVES, None)}
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
    lines = [f"{group.name}: {run.state}" for group in groups for run in group.runs if run.state]
    if not groups:
        lines = ["Nothing is logged yet."]
    elif lines:
        lines.insert(0, "Not finished; the results are those of the last evaluation so far.")
    return "".join(f"<p>{html.escape(line)}</p>\n" for line in lines)


def _findings(groups: list[Group]) -> str:
    """What the last evaluations say of each stage: the first paragraph."""
    lines = "<br>\n".join(map(html.escape, findings.sentences(groups)))
    return f"<p>{lines}</p>" if lines else ""


def _results(groups: list[Group]) -> str:
    body = [(*row, group.report.metrics.get(row[1], "")) for group in groups for row in result_rows([group])]
    return _table((*HEAD, ""), body, note=True)


def _note_on_nats(groups: list[Group]) -> str:
    """What the unit of most losses means, where a report has it."""
    reports = [group.report for group in groups]
    words = [word for report in reports for word in (*report.metrics.values(), *(each.unit for each in report.curves))]
    return f'<p class="note">{NATS}</p>' if any(re.search(r"\bnats\b", word) for word in words) else ""


def _pictures(group: Group) -> str:
    """The pictures and confusion matrices of the first seed, which the heading names where there are several."""
    captions = group.report.captions
    files = {file.stem: file for file in sorted((group.runs[0].folder / "pictures").glob("*.png"))}
    figures = []
    for name in sorted(files, key=[*captions, *files].index):
        caption = captions.get(name, name.replace("_", " "))
        image = _image(files[name].read_bytes(), caption)
        figures.append(f"<figure><figcaption>{html.escape(caption)}</figcaption>{image}</figure>\n")
    for name, caption in group.report.matrices.items():
        file = group.runs[0].folder / metrics.TABLES / f"{name}.csv"
        table = Table(*read_csv(file)) if file.exists() else Table((), [])
        if 1 < len(table.columns) <= 1 + classification.NAMED:
            image = _image(classification.draw_matrix(table), caption)
            figures.append(f"<figure><figcaption>{html.escape(caption)}</figcaption>{image}</figure>\n")
    run, of = group.runs[0], ""
    if len(group.runs) > 1:
        of = f" of seed {run.config.seed} alone ({run.folder.resolve().name})"
    heading = html.escape(f"{group.name}: pictures{of}")
    return f"<h2>{heading}</h2>\n{''.join(figures)}" if figures else ""


def _panels(groups: list[Group], panels: Sequence[Curve] | None, curve_folder: Path | None) -> str:
    """One panel for each metric of the runs that share a task and its labels, a colour for each of their stages.

    Args:
      groups: all.
      panels: what to draw; None: the curves that each task declares.
      curve_folder: see `render_page`.
    """
    images = []
    for title, labels in dict.fromkeys((group.report.title, group.labels) for group in groups):
        same = [group for group in groups if (group.report.title, group.labels) == (title, labels)]
        for logged, evaluated, unit in same[0].report.curves if panels is None else panels:
            strong, pale = _curves(same, evaluated or logged), _curves(same, logged if evaluated else "")
            if not strong and not pale:
                continue
            panel_title = ", ".join(filter(None, (title, labels)))
            png = curves.draw_curves(f"{panel_title}: {unit}", strong or pale, unit, pale if strong else {})
            if curve_folder is not None:
                metric = evaluated.removeprefix(metrics.EVALUATION) or logged
                name = re.sub(r"\W+", "_", f"curve {panel_title} {metric}")
                write_bytes(curve_folder / f"{name}.png", png)
            images.append(_image(png, f"{panel_title}: {unit}"))
    return "\n".join(images)


def _curves(groups: list[Group], metric: str) -> dict[str, list[curves.Points]]:
    """By the name of the group, the curves of its seeds that have begun."""
    by_name = {group.name: [_points(run, metric) for run in group.runs] for group in groups}
    begun = {name: [points for points in seeds if points] for name, seeds in by_name.items()}
    return {name: seeds for name, seeds in begun.items() if seeds}


def _points(run: Run, metric: str) -> curves.Points:
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
    all_keys = f"<details><summary>all keys</summary><pre>{html.escape(configs.to_json(config))}</pre></details>"
    now, usual = configs.flatten(config), _defaults(config)
    changed = [(key, repr(value), repr(usual.get(key))) for key, value in now.items() if usual.get(key) != value]
    told = f"{len(changed)} keys differ from the defaults"
    differing = _table(("key", "value", "default"), sorted(changed))
    if not usual:
        told, differing = "the defaults are not known here", ""
    return f"""<details><summary>{html.escape(f"{group.name}: {told}")}</summary>
{differing}
{all_keys}</details>
"""


def _defaults(config: ConfigDict) -> dict[str, Any]:
    """The defaults of the config's keys; none where the file of its task or of its tokenizer was not loaded."""
    try:
        return configs.flatten(configs.defaults(config.task, kind_of(config)))
    except UserError:
        return {}


def _image(png: bytes, words: str) -> str:
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
