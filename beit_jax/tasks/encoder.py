"""What tasks with an encoder share: from a config's `model` section to its fields, and features of its layers."""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.models import variants, vit
from beit_jax.tasks.task import Params


def encoder_fields(config: ConfigDict) -> dict[str, Any]:
    """The fields of `models.vit.Encoder` that a config's `model` section determines."""
    variant, patch = variants.parse(config.variant)
    remat = config.remat
    if remat == "auto":  # a CPU computes faster than it reads and writes; see docs/benchmarks.md
        remat = "dots_with_no_batch_dims_saveable" if jax.default_backend() == "cpu" else "none"
    return dict(
        width=variant.width,
        depth=variant.depth,
        heads=variant.heads,
        patch_size=patch,
        absolute_positions=config.absolute_positions,
        relative_position=config.relative_position,
        layer_scale=config.layer_scale,
        drop_path=config.drop_path,
        norm_eps=config.norm_eps,
        remat=remat,
        unroll=config.unroll,
        dtype=compute_dtype(config.dtype),
    )


def compute_dtype(name: str) -> jnp.dtype:
    """The type of matrix products; "auto" is bfloat16 on accelerators and float32 on CPU."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def features(encoder: vit.Encoder, params: Params, images: jax.Array, kind: str) -> jax.Array:
    """What stands for an image after each block, without the final norm.

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
    chosen = {"cls": cls, "mean": mean, "cls_mean": jnp.concatenate([cls, mean], axis=-1)}[kind]
    return jnp.swapaxes(chosen, 0, 1)
