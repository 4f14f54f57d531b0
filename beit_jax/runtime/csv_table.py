"""Tables as CSV files in UTF-8, which appear complete or not at all."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from beit_jax.runtime.atomic_write import write_text


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str | float]]) -> None:
    """Writes a table with a line of column names; cells with commas, quotes or line breaks are quoted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of a file that `write_csv` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        columns, *rows = csv.reader(file)
    return columns, rows
