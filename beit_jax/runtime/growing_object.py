"""An object in a bucket that grows at its end, which a store cannot do: `metrics.jsonl`, and files of TensorBoard.

New bytes become an object of their own, and the store joins it to the end of the growing one: two requests for each
addition, however long the object is. A thread makes them, so that nobody waits for the store; what is added meanwhile
goes with the next addition. While the store does not answer, everything waits in memory.
"""

import contextlib
import threading
import time
from pathlib import Path

from beit_jax.runtime import bucket
from beit_jax.runtime.bucket_retries import BucketError
from beit_jax.runtime.optional_writes import OptionalWrites

INTERVAL_S = 5.0  # between two additions; a store allows about one change of an object in a second
PART = ".part"  # follows the name of the growing object: the bytes that are joined to it next


class GrowingObject:
    """The end of one object, which is made where it does not exist. Only one process may add to it."""

    def __init__(self, path: Path, interval_s: float = INTERVAL_S):
        """
        Args:
          path: of the object.
          interval_s: seconds between two additions.
        """
        self._path, self._interval_s = path, interval_s
        # TensorBoard takes each name with "tfevents" in it for a file of its own, and moves on to the last one.
        self._part = path.with_name(path.name.replace("tfevents", "pending") + PART)
        self._generation, self._size = 0, -1  # of the object before the bytes that are being added; -1: not known
        self._adding, self._is_unsure = b"", True  # the bytes; whether the store may have added them already
        self._pending, self._is_urgent, self._is_closing = b"", False, False
        self._changed, self._writes = threading.Condition(), OptionalWrites(str(path))
        self._thread = threading.Thread(target=self._work, name=f"add to {path.name}", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Adds bytes, which are in the object within seconds, or when `flush` returns."""
        with self._changed:
            self._pending += data
            self._changed.notify_all()

    def flush(self) -> None:
        """Waits until everything is in the object, or could not be written, which is logged then."""
        with self._changed:
            self._is_urgent = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_urgent)

    def close(self) -> None:
        """Adds what is pending, and ends the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        with contextlib.suppress(BucketError):
            self._part.unlink(missing_ok=True)

    def _work(self) -> None:
        is_closing, last = False, 0.0
        while not is_closing:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._adding or self._is_urgent or self._is_closing)
                left = last + self._interval_s - time.monotonic()
                self._changed.wait_for(lambda: self._is_urgent or self._is_closing, timeout=max(left, 0.0))
                is_closing, is_urgent = self._is_closing, self._is_urgent
            if not self._writes.attempt(self._add_everything):
                self._is_unsure = True
            last = time.monotonic()
            with self._changed:
                self._is_urgent = self._is_urgent and not is_urgent
                self._changed.notify_all()

    def _add_everything(self) -> None:
        """Adds the bytes of an attempt that has failed, and then those that came since.

        Raises:
          BucketError: the store did not do it.
          OSError: something else writes to the object.
        """
        for _ in range(2):
            if not self._adding:
                with self._changed:
                    self._adding, self._pending = self._pending, b""
            if self._adding:
                self._add()
                self._adding = b""

    def _add(self) -> None:
        if self._is_unsure:
            found = self._find_size()
            if self._size >= 0 and found == self._size + len(self._adding):  # only the answer was lost
                self._size, self._is_unsure = found, False
                return
            if self._size not in (-1, found):
                raise OSError(f"{found:,} bytes instead of {self._size:,}: something else writes to it")
            self._size, self._is_unsure = found, False
        generation = self._generation
        try:
            self._request()
        except FileExistsError:  # mostly the repetition of a request that was done, and whose answer was lost
            found = self._find_size()
            if (found, self._generation) == (self._size, generation):  # its part was not the version uploaded here
                self._request()
            elif found != self._size + len(self._adding):
                raise
        self._size += len(self._adding)

    def _request(self) -> None:
        whole, condition = bucket.blob(self._path), {"if_generation_match": self._generation}
        if self._generation:
            part = bucket.blob(self._part)
            bucket.call(self._part, part.upload_from_string, self._adding)
            # A part that was given up may arrive late, in place of this one: it is not the version that is joined.
            condition["if_source_generation_match"] = [None, part.generation]
            bucket.call(self._path, whole.compose, [bucket.blob(self._path), part], **condition)
        else:
            bucket.call(self._path, whole.upload_from_string, self._adding, **condition)
        self._generation = whole.generation

    def _find_size(self) -> int:
        """Bytes of the object; 0 where there is none."""
        whole = bucket.blob(self._path)
        try:
            bucket.call(self._path, whole.reload)
        except FileNotFoundError:
            self._generation = 0
            return 0
        self._generation = whole.generation
        return int(whole.size)
