"""What tasks with an encoder share: its fields from a config, features of its layers, its FLOPs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.errors import UserError
from beit_jax.models import gpu_attention, tpu_attention, variants, vit
from beit_jax.tasks.task import Task
from beit_jax.typing import Params

# Bytes of a TPU's fast memory that a kernel of attention may take, by the name that JAX has for the chip.
FAST_MEMORY = {"TPU v4": 15 << 20} | dict.fromkeys(
    ("TPU v5 lite", "TPU v5e", "TPU v5", "TPU v5p", "TPU v6 lite", "TPU v6e"), tpu_attention.FAST_MEMORY
)


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedEncoder(Task):
    """A task that trains an encoder without labels: `model.encoder`, whose features are evaluated on the way."""

    @property
    def knn(self) -> ConfigDict:
        """See `Task.knn`."""
        return self.config.knn

    def embed(self, params: Params, frozen: Params, images: jax.Array) -> jax.Array:
        """See `Task.embed`: the mean of the patches after each block."""
        return layer_features(self.model.encoder, params["encoder"], images, "mean")

    @property
    def embedded_layers(self) -> tuple[int, ...]:
        """See `Task.embedded_layers`: all blocks."""
        return tuple(range(1, self.model.encoder.depth + 1))


def encoder_fields(section: ConfigDict) -> dict[str, Any]:
    """The fields of `models.vit.Encoder` that a config's `model` section determines."""
    variant, patch = variants.parse(section.variant)
    chosen = chosen_by_device(section, jax.devices()[0])
    return dict(
        width=variant.width,
        depth=variant.depth,
        heads=variant.heads,
        patch_size=patch,
        absolute_positions=section.absolute_positions,
        relative_position=section.relative_position,
        layer_scale=section.layer_scale,
        drop_path=section.drop_path,
        norm_eps=section.norm_eps,
        remat=chosen["remat"],
        unroll=chosen["unroll"],
        attention=chosen["attention"],
        dtype=jnp.dtype(chosen["dtype"]),
    )


def chosen_by_device(section: ConfigDict, device: jax.Device) -> dict[str, Any]:
    """`dtype`, `remat`, `unroll` and `attention` of a config's `model` section, where "auto" and 0 follow the device.

    A CPU computes faster than it reads and writes, and compiles one block faster than many. Accelerators copy what a
    loop saves for its backward pass (docs/benchmarks.md).
    """
    cpu = device.platform == "cpu"
    remat = "dots_with_no_batch_dims_saveable" if cpu else "none"
    chosen = dict(
        dtype=("float32" if cpu else "bfloat16") if section.dtype == "auto" else section.dtype,
        remat=remat if section.remat == "auto" else section.remat,
        unroll=section.unroll or (1 if cpu else variants.parse(section.variant)[0].depth),
        attention=section.attention,
    )
    if section.attention == "auto":
        fused = "cudnn" if device.platform == "gpu" else "pallas"
        chosen["attention"] = "plain" if _hindrance(fused, section, chosen["dtype"], device) else fused
    return chosen


def describe_choices(section: ConfigDict, device: jax.Device) -> str:
    """What `chosen_by_device` chose, and why, in words; empty if the config leaves it no choice."""
    chosen, cpu = chosen_by_device(section, device), device.platform == "cpu"
    reasons = {
        "dtype": "",
        "remat": "a CPU computes faster than it reads" if cpu else "accumulating gradients saves more",
        "unroll": "one block compiles fastest" if cpu else "blocks side by side copy nothing",
        "attention": "weights stay on the chip",
    }
    if chosen["attention"] == "plain" and not cpu:
        fused = "cudnn" if device.platform == "gpu" else "pallas"
        reasons["attention"] = f"{fused} is for {_hindrance(fused, section, chosen['dtype'], device)}"
    left = [key for key in reasons if section[key] in ("auto", 0) and not (cpu and key == "attention")]
    words = [f"model.{key}={chosen[key]}{f' ({reasons[key]})' if reasons[key] else ''}" for key in left]
    return f"Chosen for {device.device_kind}: {', '.join(words)}." if words else ""


def check_device(section: ConfigDict, device: jax.Device) -> None:
    """
    Raises:
      UserError: a config's `model` section asks for an attention that the device or the model cannot have.
    """
    asked = section.get("attention", "auto")
    if asked in ("auto", "plain"):
        return
    if hindrance := _hindrance(asked, section, chosen_by_device(section, device)["dtype"], device):
        raise UserError(f"model.attention={asked!r} is for {hindrance}; choose plain or auto")


def _hindrance(attention: str, section: ConfigDict, dtype: str, device: jax.Device) -> str:
    """What an implementation of attention would need; empty if there is nothing."""
    memory = FAST_MEMORY.get(device.device_kind, 0)
    if attention == "pallas" and not memory:
        return f"{', '.join(FAST_MEMORY)}, and this is {device.device_kind}"
    if attention == "cudnn" and not gpu_attention.has_cudnn(device):
        return f"NVIDIA's GPUs since A100, and this is {device.device_kind}"
    if dtype != "bfloat16":
        return f"bfloat16, and dtype is {dtype}"
    if section.relative_position == "none":
        return "a bias by relative position, and the model has none"
    variant, patch = variants.parse(section.variant)
    tokens = (section.image_size // patch) ** 2 + 1
    if attention == "cudnn":
        fault = gpu_attention.fault(tokens, variant.heads, variant.width // variant.heads, device)
        return f"a cuDNN that computes it, and the trial says: {fault}" if fault else ""
    return "" if tpu_attention.fits(tokens, variant.width, variant.heads, memory) else f"fewer tokens than {tokens}"


def compute_dtype(name: str) -> jnp.dtype:
    """The type of matrix products; "auto" is bfloat16 on accelerators and float32 on CPU."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def layer_features(encoder: vit.Encoder, params: Params, images: jax.Array, kind: str) -> jax.Array:
    """The features of images after each block, without the final norm.

    Args:
      encoder: the network.
      params: its parameters.
      images: `[b, h, w, 3]`, normalised.
      kind: "mean" of the patches, "cls", or "cls_mean", both side by side.

    Returns:
      float32 `[b, l, f]` for the blocks 1..l; f is d, or 2 d for "cls_mean".
    """
    outputs = encoder.apply({"params": params}, images, all_layers=True)
    cls, mean = outputs[:, :, 0], jnp.mean(outputs[:, :, 1:], axis=2)
    features = {"cls": cls, "mean": mean, "cls_mean": jnp.concatenate([cls, mean], axis=-1)}[kind]
    return jnp.swapaxes(features, 0, 1)


def encoder_flops(section: ConfigDict, *, backward: bool = True) -> int:
    """FLOPs of the encoder for an image, counting matrix products, from a config's `model` section.

    Projections and MLPs take 12 n d^2 products in each block, attention 2 n^2 d. The backward pass costs two forward
    passes, except that the layer that reads the images needs no gradient of its input.
    """
    variant, patch = variants.parse(section.variant)
    patches = (section.image_size // patch) ** 2
    embedding = 2 * patches * 3 * patch**2 * variant.width
    blocks = block_flops(variant, patches + 1)
    return 3 * blocks + 2 * embedding if backward else blocks + embedding


def block_flops(variant: variants.Variant, tokens: int) -> int:
    """FLOPs of all blocks' forward pass for an image of n `tokens`."""
    width = variant.width
    return 2 * variant.depth * (12 * tokens * width**2 + 2 * tokens**2 * width)
