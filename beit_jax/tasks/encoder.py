"""From a config's `model` section to the fields of the encoder, for every task that has one."""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.models import variants


def encoder_fields(config: ConfigDict) -> dict[str, Any]:
    """The fields of `models.vit.Encoder` that a config's `model` section determines."""
    variant, patch = variants.parse(config.variant)
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
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
        remat=config.remat,
        unroll=config.unroll,
        dtype=jnp.dtype(dtype),
    )
