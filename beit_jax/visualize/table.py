"""The results of runs as a table for the terminal."""

import statistics

from beit_jax.visualize.runs import Group

HEAD = ("stage", "metric", "mean", "sd", "each seed")


def format_table(groups: list[Group]) -> str:
    """Stage, metric, mean, standard deviation over seeds, and the value of every seed."""
    lines = [HEAD, *result_rows(groups)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(HEAD))]
    head, *body = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in lines]
    return "\n".join([head, "-" * len(head), *body])


def result_rows(groups: list[Group]) -> list[tuple[str, str, str, str, str]]:
    """The cells below `HEAD`; of runs that have not ended, the last evaluation."""
    rows = []
    for group in groups:
        for metric in dict.fromkeys(name for result in group.results for name in result):
            values = [result[metric] for result in group.results if metric in result]
            several = len(values) > 1
            spread = f"{statistics.stdev(values):.4g}" if several else ""
            each = " ".join(f"{value:.4g}" for value in values) if several else ""
            rows.append((group.name, metric, f"{statistics.mean(values):.4g}", spread, each))
    return rows
