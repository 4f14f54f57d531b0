"""Peak speeds beside the figures of the data sheets."""

import pytest

from beit_jax.benchmarks import chips


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("NVIDIA H200", 989.5),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("cpu", None),
        ("NVIDIA L40S", None),
    ],
)
def test_peaks(kind, tera):
    assert chips.peak_flops(kind, "bfloat16") == (tera and tera * 1e12)
    assert chips.peak_flops(kind, "float32") is None
