"""Peak speeds of chips."""

import re

# Dense products in bfloat16 with float32 sums, FLOP/s of what JAX calls a device (`device_kind`), which is half of the
# chip for TPU v2 and v3. NVIDIA's data sheets give twice that, for sparse matrices.
PEAKS = (
    (r"H200|H100 80GB HBM3|GH200", 989.5e12),  # nvidia.com/en-us/data-center/h200, h100: SXM, 1,979 sparse
    (r"H100 PCIe", 756.5e12),  # NVIDIA H100 data sheet: 1,513 sparse
    (r"A100", 312e12),  # NVIDIA A100 data sheet
    (r"NVIDIA L4$", 121e12),  # NVIDIA L4 data sheet: 242 sparse
    (r"^TPU v3$", 61.5e12),  # cloud.google.com/tpu/docs/v3: 123 per chip
    (r"^TPU v4$", 275e12),  # cloud.google.com/tpu/docs/v4
    (r"^TPU (v5 lite|v5e)$", 197e12),  # cloud.google.com/tpu/docs/v5e
    (r"^TPU (v5|v5p)$", 459e12),  # cloud.google.com/tpu/docs/v5p
    (r"^TPU (v6 lite|v6e)$", 918e12),  # cloud.google.com/tpu/docs/v6e
)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """FLOP/s of a device, or None where the table has none: other chips, and other types than bfloat16."""
    if dtype != "bfloat16":
        return None
    return next((flops for pattern, flops in PEAKS if re.search(pattern, device_kind)), None)
