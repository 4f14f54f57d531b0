"""A table of results inside a Markdown page, replaced each time that the runs are made again."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import write_text
from beit_jax.tasks import Headline
from beit_jax.visualize.runs import Group


def markdown_table(groups: list[Group]) -> str:
    """One row for each stage and headline of its task: mean, standard deviation over seeds, and each seed.

    A task without headlines has a row for each number of the last evaluation.
    """
    rows = ["| stage | measure | mean | sd | each seed |", "| --- | --- | --- | --- | --- |"]
    for group in groups:
        for headline in group.report.headlines or _all_numbers(group):
            if values := _values(group, headline):
                rows.append(f"| {group.name} | {headline.words} | {' | '.join(_cells(headline, values))} |")
    return "\n".join(rows)


def table_by_arm(groups: list[Group]) -> str:
    """One row for each arm of a recipe whose stages are called STAGE_ARM, one column for each stage and headline.

    A cell has the mean and the standard deviation over seeds. Stages without an arm have no row. Numbers that are equal
    in all arms that have them, such as the majority baseline, have no column.

    Raises:
      UserError: no stage has such a name.
    """
    rows: dict[str, dict[str, str]] = {}
    for group in groups:
        stage, _, arm = group.name.partition("_")
        for headline in group.report.headlines or _all_numbers(group) if arm else ():
            values = _values(group, headline)
            if values and headline.averaged:
                mean, spread, _ = _cells(headline, values)
                cell = f"{mean} ± {spread}" if spread else mean
                rows.setdefault(arm, {})[f"{stage}: {headline.words}"] = cell
    if not rows:
        raise UserError("no stage has a name like STAGE_ARM; leave out --arms")
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    columns = [
        name for name in columns if len(rows) == 1 or len({row[name] for row in rows.values() if name in row}) > 1
    ]
    lines = [["arm", *columns], ["---"] * (len(columns) + 1)]
    lines += [[arm, *(row.get(column, "") for column in columns)] for arm, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _values(group: Group, headline: Headline) -> list[float]:
    """Of every run that has the number."""
    return [headline.factor * result[headline.metric] for result in group.results if headline.metric in result]


def _all_numbers(group: Group) -> list[Headline]:
    names = dict.fromkeys(name for result in group.results for name in result)
    return [Headline(name, name, form="{:.4g}") for name in names]


def _cells(headline: Headline, values: Sequence[float]) -> tuple[str, str, str]:
    """Mean, standard deviation, and the value of each seed; empty where they would say nothing."""
    several = len(values) > 1
    mean = headline.form.format(statistics.mean(values)) if headline.averaged or not several else ""
    spread = headline.form.format(statistics.stdev(values)) if headline.averaged and several else ""
    return mean, spread, ", ".join(map(headline.form.format, values)) if several else ""


def replace_table(page: Path, name: str, text: str) -> None:
    """Puts text between the lines `<!-- begin NAME -->` and `<!-- end NAME -->` of a page.

    Raises:
      UserError: the page has no such lines.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    content = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, has_begin, rest = content.partition(begin)
    _, has_end, after = rest.partition(end)
    if not has_begin or not has_end:
        raise UserError(f"{page} has no lines for the table; expected {begin} and {end} in it")
    write_text(page, f"{before}{begin}\n{text}\n{end}{after}")
