"""Runs the cells of a notebook as Jupyter would, without Jupyter, and without the cell that installs.

python run_notebook.py NOTEBOOK OUT '{"WORKDIR": "/tmp/out"}'

The JSON object replaces variables of the cell `settings`. Figures that a cell leaves open become OUT/CELL-N.png, and
the files of displayed pictures are listed in OUT/displayed.txt.
"""

import json
import sys
import types
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def main(notebook: str, out: str, settings: str) -> None:
    folder, displayed = Path(out), []
    folder.mkdir(parents=True, exist_ok=True)
    display = types.ModuleType("IPython.display")
    display.display = lambda *what: displayed.extend(item for item in what if isinstance(item, Path))
    display.Markdown, display.Image = str, lambda filename: Path(filename)
    ipython = types.ModuleType("IPython")
    ipython.get_ipython, ipython.version_info = lambda: None, (9, 0)
    sys.modules |= {"IPython": ipython, "IPython.display": display}
    pyplot.show = lambda: None
    scope = {"__name__": "__main__"}
    for cell in json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code" or "install" in cell["metadata"].get("tags", []):
            continue
        exec(compile("".join(cell["source"]), cell["id"], "exec"), scope)
        if cell["id"] == "settings":
            unknown = json.loads(settings).keys() - scope.keys()
            assert not unknown, f"the cell of settings has no {unknown}"
            scope |= json.loads(settings)
        for number in pyplot.get_fignums():
            pyplot.figure(number).savefig(folder / f"{cell['id']}-{number}.png", dpi=60)
        pyplot.close("all")
    assert all(file.is_file() for file in displayed)
    (folder / "displayed.txt").write_text("".join(f"{file}\n" for file in displayed))


if __name__ == "__main__":
    main(*sys.argv[1:])
