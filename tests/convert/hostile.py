"""Files of PyTorch that ask for what they do not hold, and what reading them may cost."""

import contextlib
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from reliability.fuzz_reader import VALUES, Named, Pid, archive, pickled

from beit_jax.errors import UserError

STORED = {"0": VALUES, "1": VALUES}
FLOATS = np.frombuffer(VALUES, np.float32)


@contextlib.contextmanager
def cheap(seconds=6.0, memory=100 << 20):
    """Time of the processor, and memory that is allocated, used or not."""
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - start < seconds and peak < memory


@contextlib.contextmanager
def cheap_objects(seconds=15.0, memory=350 << 20):
    """Time of the processor and memory that the process uses: counting objects would take longer than making them."""
    with contextlib.suppress(OSError):  # which only Linux has
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = _peak(), time.process_time()
    yield
    assert time.process_time() - start < seconds and _peak() - before < memory


def _peak() -> int:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def refused(read, data, message):
    with pytest.raises(UserError, match=message) as error:
        read(data)
    assert str(error.value).isprintable()


def of(tensor_, stored=None):
    return archive(pickled({"a": tensor_}), STORED if stored is None else stored)


def raw(opcodes: bytes) -> bytes:
    return archive(b"\x80\x02" + opcodes + b".", STORED)


def rebuilt(storage, offset, shape, strides, *more):
    return Named("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, *more)


def storage(key="0", count=4, kind="FloatStorage", *more):
    return Pid("storage", Named("torch", kind), key, "cpu", count, *more)
