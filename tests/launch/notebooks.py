"""Runs notebooks of launch/colab in a real kernel, as Colab does, each cell twice."""

import base64
import io
import json
from pathlib import Path

import nbclient
import nbconvert
import nbformat
import numpy as np
from patience import PATIENCE_S
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "launch" / "colab"


def read(name: str) -> dict:
    """The contents of a notebook's file."""
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def execute(name: str, **settings) -> nbformat.NotebookNode:
    """The notebook with the outputs of its second run; `settings` replace variables of its cell `settings`."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    (settings_cell,) = [cell for cell in notebook.cells if cell.id == "settings"]
    for key, value in settings.items():
        assert f"{key}" in settings_cell.source, f"the cell of settings has no {key}"
        settings_cell.source += f"\n{key} = {value!r}"
    cells = notebook.cells
    notebook.cells = [copy for cell in cells for copy in (copy_cell(cell), cell)]  # run again, a cell does no harm
    nbclient.NotebookClient(notebook, timeout=PATIENCE_S, resources={"metadata": {"path": str(FOLDER)}}).execute()
    notebook.cells = cells
    return notebook


def copy_cell(cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The cell under another id."""
    return nbformat.from_dict({**cell, "id": f"{cell.id}-first"})


def printed(notebook: nbformat.NotebookNode) -> str:
    """What all cells wrote to standard output."""
    return "".join(output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)


def pictures(notebook: nbformat.NotebookNode) -> list[np.ndarray]:
    """The pictures that cells show, uint8 `[h, w, 3]`, without JPEG files."""
    encoded = _shown(notebook, "image/png")
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")) for picture in encoded]


def headings(notebook: nbformat.NotebookNode) -> list[str]:
    """Markdown that cells show, without its asterisks."""
    return [text.strip("*") for text in _shown(notebook, "text/markdown")]


def _shown(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    shown = [output["data"] for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    return [data[kind] for data in shown if kind in data]


def write_page(notebook: nbformat.NotebookNode, file: Path) -> Path:
    """The notebook as a page that loads no other file."""
    nothing = "data:text/javascript,"
    exporter = nbconvert.HTMLExporter(mathjax_url=nothing, require_js_url=nothing, jquery_url=nothing)
    file.write_text(exporter.from_notebook_node(notebook)[0], encoding="utf-8")
    return file
