"""Reports of workdirs: a table for the terminal, and one self-contained `report.html`."""

import os
from pathlib import Path

from beit_jax.runtime.atomic_write import write_text
from beit_jax.visualize import page, runs, table


def write_report(*workdirs: Path, out: Path | None = None) -> str:
    """Writes the page; returns the table for the terminal.

    Args:
      workdirs: each of a run or of a recipe, finished or not. Several are shown side by side.
      out: the page; if not given, `report.html` in the workdir, with its curves beside it as PNG, or in the folder
        that holds all of several workdirs.
    """
    groups = runs.collect_runs(*workdirs, unfinished=True)
    folder = workdirs[0] if len(workdirs) == 1 else Path(os.path.commonpath([path.resolve() for path in workdirs]))
    target = out or folder / "report.html"
    title = folder.resolve().name if len(workdirs) == 1 else " | ".join(path.resolve().name for path in workdirs)
    curve_folder = folder if len(workdirs) == 1 and out is None else None
    write_text(target, page.render_page(title, groups, curve_folder))
    return f"{table.format_table(groups)}\n\nreport: {target}"
