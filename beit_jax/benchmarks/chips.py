"""What chips can do, by their data sheets, and devices of chips that are not there, for which programs can be compiled.

libtpu compiles for every TPU topology, and the CUDA plugin for a GPU that is described to it, on any machine.
"""

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from beit_jax.errors import UserError

if TYPE_CHECKING:
    import jax


class Chip(NamedTuple):
    """A kind of device, which is half of the chip for TPU v2 and v3."""

    name: str
    kind: str  # regular expression of what JAX calls it (`device_kind`)
    # Dense products in bfloat16 with float32 sums, FLOP/s; NVIDIA's data sheets give twice that, for sparse ones.
    peak: float
    memory: float = 0.0  # bytes that a program can have
    bandwidth: float = 0.0  # of its memory, bytes/s
    clock: float = 0.0  # of a TPU, Hz, by which XLA's cycles become seconds: see below
    cores: int = 0  # multiprocessors of a GPU
    capability: tuple[int, int] = (0, 0)  # of a GPU


GIB = 2.0**30
# Clocks of TPUs are not on their data sheets. With those below, XLA's cycles of one product of 8192^3 are 88% (v5e),
# 90% (v5p), 70% (v6e) and 80% (tpu7x) of the peak.
CHIPS = (
    # nvidia.com/en-us/data-center/h200, h100: SXM, 1,979 sparse
    Chip("h200", r"H200|GH200", 989.5e12, 139.8 * GIB, 4.8e12, cores=132, capability=(9, 0)),
    Chip("h100", r"H100 80GB HBM3", 989.5e12, 79.1 * GIB, 3.35e12, cores=132, capability=(9, 0)),
    Chip("h100-pcie", r"H100 PCIe", 756.5e12),  # NVIDIA H100 data sheet: 1,513 sparse
    Chip("a100", r"A100", 312e12, 79.1 * GIB, 2.039e12, cores=108, capability=(8, 0)),  # NVIDIA A100 data sheet, 80 GB
    Chip("l4", r"NVIDIA L4$", 121e12),  # NVIDIA L4 data sheet: 242 sparse
    Chip("v3", r"^TPU v3$", 61.5e12),  # cloud.google.com/tpu/docs/v3: 123 per chip
    Chip("v4", r"^TPU v4$", 275e12, 30.75 * GIB, 1.2e12, 1.05e9),  # cloud.google.com/tpu/docs/v4
    Chip("v5e", r"^TPU (v5 lite|v5e)$", 197e12, 15.75 * GIB, 0.819e12, 1.5e9),  # cloud.google.com/tpu/docs/v5e
    Chip("v5p", r"^TPU (v5|v5p)$", 459e12, 95.74 * GIB, 2.765e12, 1.75e9),  # cloud.google.com/tpu/docs/v5p
    Chip("v6e", r"^TPU (v6 lite|v6e)$", 918e12, 31.25 * GIB, 1.64e12, 1.75e9),  # cloud.google.com/tpu/docs/v6e
    # cloud.google.com/tpu/docs/tpu7x, half a chip
    Chip("tpu7x", r"^TPU7x$", 1153.5e12, 95.0 * GIB, 3.69e12, 2.2e9),
)
GPUS = tuple(chip.name for chip in CHIPS if chip.cores)
TPUS = tuple(chip.name for chip in CHIPS if chip.clock)
DEFAULT_TOPOLOGY = {"v4": "2x2x1", "v5p": "2x2x1", "tpu7x": "2x2x1"}  # the smallest host; else 2x2

# libtpu asks neither a cloud nor its host, and does not mind other processes that compile.
TPU_SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
CUDNN = 91900  # the version that programs for absent GPUs are made for

# A description such as those in xla/tools/hlo_opt/gpu_specs.
_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: {shared} shared_memory_per_block_optin: {optin}
  threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f} l2_cache_size: {cache} clock_rate_ghz: {ghz} device_memory_size: {memory:.0f}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }} device_description_str: "NVIDIA {name}"
"""


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls so; None where the table has none."""
    return next((chip for chip in CHIPS if re.search(chip.kind, device_kind)), None)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """FLOP/s of a device, or None where the table has none: other chips, and other types than bfloat16."""
    chip = chip_of(device_kind)
    return chip.peak if chip and dtype == "bfloat16" else None


def prepare_to_compile(name: str) -> None:
    """Sets the environment for `absent_devices`, before JAX is imported: the CPU runs what has to run."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if _kind(name) in GPUS:
        # The sizes of Triton's products are chosen by timing them on the chip.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_enable_triton_gemm=false".strip()
    else:
        os.environ.update(**TPU_SETTINGS)


def check_name(name: str) -> None:
    """
    Raises:
      UserError: nothing is known of such a chip.
    """
    if _kind(name) not in (*GPUS, *TPUS) or (":" in name and _kind(name) in GPUS):
        raise UserError(
            f"found --chip={name}; expected one of {', '.join(GPUS)}, or a TPU with its topology, such as v5e:2x2 or "
            f"v5e:16x16: {', '.join(TPUS)}"
        )


def library_for(name: str) -> str:
    """The library that compiles for a chip, as it is imported."""
    return "jax_plugins.xla_cuda13" if _kind(name) in GPUS else "libtpu"


def absent_devices(name: str) -> "list[jax.Device]":
    """Devices of a chip: one GPU, or a topology of TPUs. They can be compiled for, and run nothing.

    Args:
      name: a GPU, or a TPU such as v5e:2x2; without a topology, the smallest one.

    Raises:
      UserError: libtpu knows no such topology.
    """
    from jax.experimental import topologies

    kind, _, topology = name.partition(":")
    if kind in GPUS:
        chip = next(chip for chip in CHIPS if chip.name == kind)
        described = topologies.get_topology_desc(kind, "cuda", target_config=_describe(chip), topology="1x1x1")
        _trace_cudnn_without_gpu()
        return list(described.devices)
    usual = DEFAULT_TOPOLOGY.get(kind, "2x2")
    topology = topology or usual
    alone = {"chips_per_host_bounds": (1, 1, 1)} if set(topology) <= set("1x") else {}
    try:
        return list(topologies.get_topology_desc(f"{kind}:{topology}", "tpu", **alone).devices)
    except Exception as error:  # libtpu's, of several types
        raise UserError(
            f"found --chip={name}: {str(error).splitlines()[0]}; give a topology such as {usual}"
        ) from error


def _trace_cudnn_without_gpu() -> None:
    """Makes JAX take cuDNN's attention into a program though there is no GPU whose version of it could be asked."""
    from jax._src.cudnn import fused_attention_stablehlo as attention

    attention.check_cudnn_version = lambda: CUDNN
    attention.check_compute_capability = lambda capability: True
    attention.is_cuda_compute_capability_equal = lambda capability: False


def _kind(name: str) -> str:
    return name.partition(":")[0]


def _describe(chip: Chip) -> str:
    hopper = chip.capability[0] >= 9
    return _GPU.format(
        shared=233472 if hopper else 167936,
        optin=232448 if hopper else 166912,
        cores=chip.cores,
        fpus=128 if hopper else 64,
        bandwidth=chip.bandwidth,
        cache=52428800 if hopper else 41943040,
        ghz=1.98 if hopper else 1.41,
        memory=chip.memory,
        major=chip.capability[0],
        minor=chip.capability[1],
        name=chip.name.upper(),
    )
