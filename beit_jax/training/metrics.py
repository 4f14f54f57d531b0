"""What a run writes: `metrics.jsonl`, event files of TensorBoard, and pictures as PNG."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import write_bytes, write_text
from beit_jax.runtime.csv_table import write_csv
from beit_jax.runtime.line_file import LineFile
from beit_jax.runtime.optional_writes import OptionalWrites
from beit_jax.runtime.png import encode_png
from beit_jax.tasks.report import Table
from beit_jax.training.loggers.background import EVALUATION, Item
from beit_jax.training.loggers.run_loggers import RunLoggers
from beit_jax.training.tensorboard import TensorBoard

FILE = "metrics.jsonl"
TABLES = "tables"  # the folder of the tables of the last evaluation


class MetricWriter:
    """Writes the numbers and pictures of one run, from one process. What cannot be written does not end the run."""

    def __init__(self, run: Path, start_step: int = 0, writes: bool = True, loggers: RunLoggers | None = None):
        """
        Args:
          run: the run's folder.
          start_step: the step that the run continues from. Lines of later steps, which a killed run wrote after its
            last checkpoint, are removed: these steps are repeated.
          writes: whether this process writes; in the others, every method does nothing.
          loggers: of the run, which get the same. They are opened here, with the lines of the steps up to
            `start_step`, and whoever made them closes them.

        Raises:
          UserError: the folder cannot be written now.
        """
        self._writes = writes
        if not writes:
            return
        self._pictures, self._tables, self._path = run / "pictures", run / TABLES, run / FILE
        kept = [line for line in read_metrics(self._path) if line["step"] <= start_step]
        try:
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        except OSError as error:
            raise UserError(f"{self._path} cannot be written: {error}; free some space, or make it writable") from error
        self._lines, self._board = LineFile(self._path), TensorBoard(run / "tensorboard", start_step + 1)
        self._loggers = loggers or RunLoggers()
        self._loggers.open(kept)
        self._files = OptionalWrites(f"the pictures and tables of {run}")

    def read_evaluation(self, step: int) -> dict[str, float]:
        """The metrics of an evaluation that was written before; empty where there is none."""
        lines = [line for line in read_metrics(self._path) if line["step"] == step] if self._writes else []
        values = {name: value for line in lines for name, value in line.items() if name.startswith(EVALUATION)}
        return {name.removeprefix(EVALUATION): value for name, value in values.items()}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line of `metrics.jsonl`, such as `{"step": 10, "loss": 0.5}`, and the same to TensorBoard."""
        if self._writes:
            self._lines.append(json.dumps({"step": step, **values}))
            self._board.add_scalars(step, values)
            self._loggers.submit(Item("log_scalars", step, values))

    def flush(self) -> None:
        """Waits until the lines that were written are in the file: those of the steps of a checkpoint, before it."""
        if self._writes:
            self._lines.flush()

    def write_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Writes images `[b, h, w, 3]` in [0, 1] side by side as `pictures/NAME.png`, and the same to TensorBoard."""
        if self._writes:
            strips = {name: to_strip(images) for name, images in pictures.items()}
            self._files.attempt(lambda: save_strips(self._pictures, strips))
            self._board.add_images(step, strips)
            self._loggers.submit(Item("log_pictures", step, strips))

    def write_tables(self, step: int, tables: Mapping[str, Table]) -> None:
        """Writes each table as `tables/NAME.csv`."""
        if self._writes:
            self._files.attempt(lambda: save_tables(self._tables, tables))
            self._loggers.submit(Item("log_tables", step, tables))

    def close(self) -> None:
        """Closes the files."""
        if self._writes:
            self._lines.close()
            self._board.close()


def save_pictures(folder: Path, pictures: Mapping[str, np.ndarray]) -> None:
    """Writes images `[b, h, w, 3]` in [0, 1] side by side as one PNG for each name into `folder`."""
    save_strips(folder, {name: to_strip(images) for name, images in pictures.items()})


def save_strips(folder: Path, strips: Mapping[str, np.ndarray]) -> None:
    """Writes images, uint8 `[h, w, 3]`, as one PNG for each name into `folder`."""
    for name, strip in strips.items():
        file = "".join(c if c.isalnum() else "_" for c in name)
        write_bytes(folder / f"{file}.png", encode_png(strip))


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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`.

    Lines that cannot be read are left out, with a warning; not for the last one, which a kill may have truncated.
    """
    texts = path.read_bytes().splitlines() if path.exists() else []
    lines = [_parse_line(text) for text in texts]
    damaged = [number for number, line in enumerate(lines, 1) if line is None and number < len(lines)]
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        warnings.warn(f"line {damaged[0]}{more} of {path} cannot be read and is left out", stacklevel=2)
    return [line for line in lines if line is not None]


def _parse_line(text: bytes) -> dict[str, Any] | None:
    """A line of `metrics.jsonl`; None where it is no object with a step."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):  # bytes that are not UTF-8 among them
        return None
    return line if isinstance(line, dict) and type(line.get("step")) is int else None
