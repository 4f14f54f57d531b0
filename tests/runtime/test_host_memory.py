"""The memory that hosts, containers and Slurm jobs leave, from the files in which kernels say it."""

import pytest

from beit_jax.runtime import host_memory

MIB = 2**20


def system(root, groups, free=8000, swap=1000, **files):
    """Files below `proc` and `sys`; `__` for `/` in names."""
    proc = root / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {free * 1024} kB\nSwapFree: {swap * 1024} kB\n")
    (proc / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys" / "fs" / "cgroup" / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_host_with_swap(tmp_path):
    assert host_memory.available_bytes(system(tmp_path, "0::/\n")) == 9000 * MIB


@pytest.mark.parametrize(("where", "group"), [("", "/"), ("slurm__job_7__", "/slurm/job_7/step_0")])
def test_container_and_slurm_job_of_version_2(tmp_path, where, group):
    files = {
        f"{where}memory-max": 4000 * MIB,
        f"{where}memory-current": 1500 * MIB,
        f"{where}memory-stat": f"anon 5\nactive_file {200 * MIB}\ninactive_file {300 * MIB}",
        f"{where}memory-swap-max": 100 * MIB,
        f"{where}memory-swap-current": 0,
    }
    root = system(tmp_path, f"0::{group}\n", **files)
    assert host_memory.available_bytes(root) == (4000 - 1500 + 500 + 100) * MIB


def test_group_without_limit(tmp_path):
    root = system(tmp_path, "0::/a\n", **{"a__memory-max": "max", "a__memory-current": 5})
    assert host_memory.available_bytes(root) == 9000 * MIB


def test_container_of_version_1_whose_swap_is_limited_too(tmp_path):
    files = {
        "memory__memory-limit_in_bytes": 4000 * MIB,
        "memory__memory-usage_in_bytes": 1000 * MIB,
        "memory__memory-memsw-limit_in_bytes": 4000 * MIB,
        "memory__memory-memsw-usage_in_bytes": 1000 * MIB,
    }
    root = system(tmp_path, "3:cpu:/x\n4:memory:/docker/abc\n0::/\n", **files)
    assert host_memory.available_bytes(root) == 3000 * MIB


def test_host_that_does_not_say(tmp_path):
    physical = host_memory.available_bytes(tmp_path)  # as on a Mac
    assert physical > 100 * MIB


def test_this_host():
    assert 10 * MIB < host_memory.available_bytes() < 2**50
