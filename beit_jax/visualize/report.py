"""Reports of workdirs: a table for the terminal, and one self-contained `report.html`."""

from pathlib import Path

from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import write_text
from beit_jax.visualize import page, runs, table
from beit_jax.visualize.workdirs import common_folder


def write_report(*workdirs: Path, out: Path | None = None) -> str:
    """Writes the page; returns the table for the terminal.

    Args:
      workdirs: each of a run or of a recipe, finished or not. Several are shown side by side.
      out: the page; if not given, `report.html` in the workdir, with its curves beside it as PNG, or in the folder
        that holds all of several workdirs.

    Raises:
      UserError: no folder holds all of them, and no page is given.
    """
    folder = workdirs[0] if len(workdirs) == 1 else common_folder(workdirs)
    if folder is None and out is None:
        raise UserError("the workdirs have no folder in common for the page; name one with --out=PAGE")
    groups = runs.collect_runs(*workdirs, unfinished=True)
    target = out or folder / "report.html"
    title = folder.resolve().name if len(workdirs) == 1 else " | ".join(path.resolve().name for path in workdirs)
    curve_folder = folder if len(workdirs) == 1 and out is None else None
    write_text(target, page.render_page(title, groups, curve_folder))
    return f"{table.format_table(groups)}\n\nreport: {target}"
