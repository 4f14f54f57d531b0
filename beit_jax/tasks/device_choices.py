"""What the device decides of an encoder where a config leaves it open: types, rematerialization, loops, attention."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from beit_jax.errors import UserError
from beit_jax.models import gpu_attention, tpu_attention, variants
from beit_jax.models.image_size import area, grid_of


def compute_dtype(name: str, device: jax.Device | None = None) -> jnp.dtype:
    """The type of matrix products; "auto" is bfloat16 on accelerators and float32 on CPU.

    Args:
      name: of a config.
      device: None: the first that is there.
    """
    if name == "auto":
        name = "float32" if (device or jax.devices()[0]).platform == "cpu" else "bfloat16"
    return jnp.dtype(name)


def unrolled_blocks(unroll: int, variant: str, device: jax.Device | None = None) -> int:
    """Blocks in one iteration of the loop: those of a config or, for 0, one on CPU and all of the variant elsewhere."""
    is_cpu = (device or jax.devices()[0]).platform == "cpu"
    return unroll or (1 if is_cpu else variants.parse(variant)[0].depth)


def chosen_by_device(section: ConfigDict, device: jax.Device) -> dict[str, Any]:
    """`dtype`, `remat`, `unroll` and `attention` of a config's `model` section, where "auto" and 0 follow the device.

    A CPU computes faster than it reads and writes, and compiles one block faster than many. Accelerators copy what a
    loop saves for its backward pass (docs/benchmarks.md).
    """
    cpu = device.platform == "cpu"
    remat = "dots_with_no_batch_dims_saveable" if cpu else "none"
    chosen = dict(
        dtype=compute_dtype(section.dtype, device).name,
        remat=remat if section.remat == "auto" else section.remat,
        unroll=unrolled_blocks(section.unroll, section.variant, device),
        attention=section.attention,
    )
    if section.attention == "auto":
        fused = _fused(device)
        chosen["attention"] = "plain" if _hindrance(fused, section, chosen["dtype"], device) else fused
    return chosen


def describe_choices(section: ConfigDict, device: jax.Device) -> str:
    """What `chosen_by_device` chose, and why, in words; empty if the config leaves it no choice."""
    chosen, cpu = chosen_by_device(section, device), device.platform == "cpu"
    reasons = {
        "dtype": "",
        "remat": "recomputing is faster than reading memory on a CPU"
        if cpu
        else "nothing is recomputed; optimizer.accumulate saves more memory",
        "unroll": "one block compiles fastest" if cpu else "without a loop nothing is copied; 1 compiles faster",
        "attention": "its weights stay in fast memory",
    }
    if section.attention == "auto" and chosen["attention"] == "plain":
        reasons["attention"] = _hindrance(_fused(device), section, chosen["dtype"], device)
    left = [key for key in reasons if section[key] in ("auto", 0) and not (cpu and key == "attention")]
    words = [f"model.{key}={chosen[key]}{f' ({reasons[key]})' if reasons[key] else ''}" for key in left]
    return f"Chosen for {device.device_kind}: {', '.join(words)}." if words else ""


def check_devices(section: ConfigDict, mesh: Mesh) -> None:
    """Checks that the devices of a mesh can compute the attention that a config's `model` section asks for.

    Raises:
      UserError: they or the model cannot have this implementation, or the mesh would split a head.
    """
    if "attention" not in section:
        return
    heads, tensor = variants.parse(section.variant)[0].heads, mesh.shape["tensor"]
    if heads % tensor:
        raise UserError(
            f"mesh.tensor={tensor} does not divide the {heads} heads of model.variant={section.variant!r}; choose a "
            f"divisor of {heads}"
        )
    device, asked = mesh.devices.flat[0], section.attention
    if asked in ("auto", "plain"):
        return
    if hindrance := _hindrance(asked, section, chosen_by_device(section, device)["dtype"], device):
        raise UserError(f"model.attention={asked!r}: {hindrance}; choose plain or auto")


def _fused(device: jax.Device) -> str:
    return "cudnn" if device.platform == "gpu" else "pallas"


def _hindrance(attention: str, section: ConfigDict, dtype: str, device: jax.Device) -> str:
    """Why an implementation of attention cannot be had, as a clause; empty if it can."""
    kind, memory = device.device_kind, tpu_attention.fast_memory(device.device_kind)
    if attention == "pallas" and not memory:
        return f"pallas needs a TPU v4, v5e, v5p or v6e, and this is {kind}"
    if attention == "cudnn" and not gpu_attention.has_cudnn(device):
        return f"cudnn needs a GPU of NVIDIA, A100 or newer, and this is {kind}"
    if dtype != "bfloat16":
        return f"{attention} needs bfloat16, and dtype is {dtype}"
    if section.relative_position == "none":
        return f"{attention} is for attention with a bias by relative position, and the model has none"
    variant, patch = variants.parse(section.variant)
    tokens = area(grid_of(section.image_size, patch)) + 1
    if attention == "cudnn":
        fault = gpu_attention.fault(tokens, variant.heads, variant.width // variant.heads, device)
        return f"cudnn failed its trial: {fault}" if fault else ""
    fits = tpu_attention.fits(tokens, variant.width, variant.heads, memory)
    return "" if fits else f"{tokens} tokens do not fit into the fast memory that pallas needs"
