"""Event files of TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import event_file_writer, record_writer, summary
from tensorboardX.proto import event_pb2

from beit_jax.runtime.growing_object import GrowingObject
from beit_jax.runtime.optional_writes import OptionalWrites
from beit_jax.runtime.paths import as_path

FLUSH_S = 30.0  # between two flushes, each of which waits for the disk


class TensorBoard:
    """Writes the numbers and pictures of one run.

    Numbers that cannot be written are left out (see `OptionalWrites`), and the next ones go into a new file.
    `tensorboardX.SummaryWriter` is not used: it writes in a thread, and if that dies of a full disk, its caller waits
    for it for ever.
    """

    def __init__(self, folder: Path, first_step: int):
        """
        Args:
          folder: of the event files.
          first_step: TensorBoard drops what earlier files say of this step and later ones.
        """
        self._folder, self._writer, self._writes = folder, None, OptionalWrites(str(folder))
        self._first_step, self._flushed = first_step, 0.0

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds numbers by name."""
        self._add(step, [summary.scalar(name, value) for name, value in values.items()])

    def add_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Adds images, uint8 `[h, w, 3]`, by name."""
        self._add(step, [summary.image(name, image, dataformats="HWC") for name, image in images.items()])

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writes.attempt(self._writer.close)
            self._writer = None

    def _add(self, step: int, summaries: list) -> None:
        events = [event_pb2.Event(step=step, wall_time=time.time(), summary=entry) for entry in summaries]
        if not self._writes.attempt(lambda: self._write(events)):
            self._writer = None

    def _write(self, events: list) -> None:
        if self._writer is None:
            self._writer = self._open()
        for event in events:
            self._writer.write_event(event)
        if time.monotonic() - self._flushed > FLUSH_S:
            self._writer.flush()
            self._flushed = time.monotonic()

    def _open(self) -> event_file_writer.EventsWriter:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._flushed = 0.0  # the file is seen at once
        writer = event_file_writer.EventsWriter(str(self._folder / f"events.{self._next_number():06}"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        writer.write_event(event_pb2.Event(step=self._first_step, wall_time=time.time(), session_log=start))
        return writer

    def _next_number(self) -> int:
        """One more than the event files have: TensorBoard reads them by name, and a clock may have been set back."""
        parts = [path.name.split(".")[1] for path in self._folder.glob("events.*.tfevents.*")]
        return max((int(part) for part in parts if part.isdecimal()), default=0) + 1


class _EventObject(GrowingObject):
    """An event file in a bucket. A thread adds to it: the loop, which flushes, waits for no store."""

    def flush(self) -> None:
        """Does nothing."""


class _EventObjects:
    """Opens them, in place of tensorboardX' own way: that uploads the whole file at each flush."""

    def open(self, path: str) -> _EventObject:
        """The end of a new object."""
        return _EventObject(as_path(path), FLUSH_S)

    def directory_check(self, path: str) -> None:
        """Does nothing: objects need no folders."""


record_writer.register_writer_factory("gs", _EventObjects())
