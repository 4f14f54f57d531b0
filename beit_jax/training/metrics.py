"""What a run writes: `metrics.jsonl`, event files of TensorBoard, and pictures as PNG."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from beit_jax.runtime.atomic_write import write_text
from beit_jax.runtime.csv_table import write_csv
from beit_jax.tasks.report import Table

FILE = "metrics.jsonl"
TABLES = "tables"  # the folder of the tables of the last evaluation
EVALUATION = "eval/"  # prefix of the metrics of an evaluation


class MetricWriter:
    """Writes the numbers and pictures of one run, from one process."""

    def __init__(self, run: Path, start_step: int = 0, writes: bool = True):
        """
        Args:
          run: the run's folder.
          start_step: the step that the run continues from. Lines of later steps, which a killed run wrote after its
            last checkpoint, are removed: these steps are repeated.
          writes: whether this process writes; in the others, every method does nothing.
        """
        self._writes = writes
        if not writes:
            return
        run.mkdir(parents=True, exist_ok=True)
        self._pictures, self._tables = run / "pictures", run / TABLES
        self._path = path = run / FILE
        kept = [line for line in read_metrics(path) if line["step"] <= start_step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start_step + 1, flush_secs=30)

    def read_evaluation(self, step: int) -> dict[str, float]:
        """The metrics of an evaluation that was written before; empty where there is none."""
        lines = [line for line in read_metrics(self._path) if line["step"] == step] if self._writes else []
        values = {name: value for line in lines for name, value in line.items() if name.startswith(EVALUATION)}
        return {name.removeprefix(EVALUATION): value for name, value in values.items()}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line of `metrics.jsonl`, such as `{"step": 10, "loss": 0.5}`, and the same to TensorBoard."""
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def write_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Writes images `[b, h, w, 3]` in [0, 1] side by side as `pictures/NAME.png`, and the same to TensorBoard."""
        if not self._writes:
            return
        for name, strip in save_pictures(self._pictures, pictures).items():
            self._board.add_image(name, strip, step, dataformats="HWC")

    def write_tables(self, tables: Mapping[str, Table]) -> None:
        """Writes each table as `tables/NAME.csv`."""
        if self._writes:
            save_tables(self._tables, tables)

    def close(self) -> None:
        """Flushes and closes the files."""
        if not self._writes:
            return
        self._file.close()
        self._board.close()


def save_pictures(folder: Path, pictures: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Writes one PNG for each name into `folder`; returns what was written, uint8 `[h, w, 3]`."""
    strips = {name: to_strip(images) for name, images in pictures.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, strip in strips.items():
        file = "".join(c if c.isalnum() else "_" for c in name)
        Image.fromarray(strip).save(folder / f"{file}.png")
    return strips


def save_tables(folder: Path, tables: Mapping[str, Table]) -> None:
    """Writes one CSV file for each name into `folder`."""
    for name, table in tables.items():
        write_csv(folder / f"{name}.csv", table.columns, table.rows)


def to_strip(images: np.ndarray, gap: int = 2, min_side: int = 64) -> np.ndarray:
    """Images `[b, h, w, 3]` in [0, 1] side by side with white gaps, as uint8 `[h', w', 3]`; small ones are enlarged."""
    scale = max(1, min_side // images.shape[1])
    images = np.repeat(np.repeat(np.asarray(images, np.float32), scale, axis=1), scale, axis=2)
    padded = np.pad(images, ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=1.0)
    return (np.concatenate(list(padded), axis=1).clip(0, 1) * 255).round().astype(np.uint8)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`; leaves out a last line that a kill has truncated."""
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines
