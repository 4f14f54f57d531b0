from pathlib import Path

import pytest

from beit_jax.runtime import heap


def resident():
    """MiB."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.skipif(not hasattr(heap.ctypes.CDLL(None), "malloc_trim"), reason="this is not glibc")
def test_freed_memory_is_returned_to_the_system(monkeypatch):
    held = [b"x" * 20_000 for _ in range(10_000)]  # 191 MiB
    del held[::2], held[1::2]  # a quarter stays, in all regions
    before = resident()
    assert list(heap.trim_heap(iter(range(3)))) == [0, 1, 2]
    assert resident() > before - 20  # it is not yet time
    monkeypatch.setattr(heap, "TRIM_EVERY_S", -1)
    assert list(heap.trim_heap(iter(range(3)))) == [0, 1, 2]
    assert resident() < before - 80
    assert len(held) == 2500
