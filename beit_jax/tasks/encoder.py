"""What tasks with an encoder share: its fields from a config, features of its layers, its FLOPs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from ml_collections import ConfigDict

from beit_jax.models import variants, vit
from beit_jax.models.image_size import area, grid_of
from beit_jax.models.patch_embed import patch_grid
from beit_jax.tasks.device_choices import chosen_by_device
from beit_jax.tasks.task import Task
from beit_jax.typing import Params


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedEncoder(Task):
    """A task that trains an encoder without labels: `model.encoder`, whose features are evaluated on the way."""

    @property
    def evals(self) -> ConfigDict:
        """See `Task.evals`."""
        return self.config.evals

    def embed(self, params: Params, frozen: Params, images: jax.Array) -> jax.Array:
        """See `Task.embed`: the mean of the patches after each block."""
        return layer_features(self.model.encoder, params["encoder"], images, "mean")

    @property
    def embedded_layers(self) -> tuple[int, ...]:
        """See `Task.embedded_layers`: all blocks."""
        return tuple(range(1, self.model.encoder.depth + 1))


def encoder_fields(section: ConfigDict) -> dict[str, Any]:
    """The fields of `models.vit.Encoder` that a config's `model` section determines.

    Examples:
      >>> from beit_jax.config import defaults
      >>> from beit_jax.tasks.encoder import encoder_fields
      >>> fields = encoder_fields(defaults("classify").model)
      >>> fields["width"], fields["depth"], fields["patch_size"]
      (768, 12, 16)
    """
    variant, patch = variants.parse(section.variant)
    chosen = chosen_by_device(section, jax.devices()[0])
    return dict(
        width=variant.width,
        depth=variant.depth,
        heads=variant.heads,
        patch_size=patch,
        absolute_positions=section.absolute_positions,
        relative_position=section.relative_position,
        grid=grid_of(section.image_size, patch),
        layer_scale=section.layer_scale,
        drop_path=section.drop_path,
        norm_eps=section.norm_eps,
        remat=chosen["remat"],
        unroll=chosen["unroll"],
        attention=chosen["attention"],
        dtype=jnp.dtype(chosen["dtype"]),
    )


def layer_features(
    encoder: vit.Encoder, params: Params, images: jax.Array, kind: str, layers: Sequence[int] = ()
) -> jax.Array:
    """The features of images after blocks, without the final norm.

    Args:
      encoder: the network.
      params: its parameters.
      images: `[b, h, w, c]`, normalised.
      kind: one of `variants.FEATURE_KINDS`: "mean" of the patches, "cls", "cls_mean", both side by side, or "patches",
        maps of them.
      layers: the blocks, counted from 1; empty: all.

    Returns:
      float32 `[b, l, f]` for the blocks; f is d, or 2 d for "cls_mean". `[b, l, gh, gw, d]` for "patches".
    """
    outputs = layer_outputs(encoder, params, images, layers or range(1, encoder.depth + 1))
    if kind == "patches":
        grid = dict(zip(("gh", "gw"), patch_grid(images.shape[1:3], encoder.patch_size), strict=True))
        return rearrange(outputs[:, :, 1:], "l b (gh gw) d -> b l gh gw d", **grid)
    cls, mean = outputs[:, :, 0], jnp.mean(outputs[:, :, 1:], axis=2)
    features = {"cls": cls, "mean": mean, "cls_mean": jnp.concatenate([cls, mean], axis=-1)}[kind]
    return jnp.swapaxes(features, 0, 1)


def layer_outputs(encoder: vit.Encoder, params: Params, images: jax.Array, layers: Sequence[int]) -> jax.Array:
    """The tokens `[l, b, n+1, d]` of images after blocks, counted from 1; those after the last are not computed."""
    last = max(layers)
    params = {**params, "blocks": jax.tree.map(lambda stacked: stacked[:last], params["blocks"])}
    encoder = encoder.clone(depth=last, final_norm=False)
    if set(layers) == {last}:  # the others need no memory
        return jnp.stack([encoder.apply({"params": params}, images)] * len(layers))
    return encoder.apply({"params": params}, images, all_layers=True)[np.array(layers) - 1]


def encoder_flops(section: ConfigDict, channels: int = 3, *, backward: bool = True, depth: int = 0) -> int:
    """FLOPs of the encoder for an image, counting matrix products, from a config's `model` section.

    Projections and MLPs take 12 n d^2 products in each block, attention 2 n^2 d. The backward pass costs two forward
    passes, except that the layer that reads the images needs no gradient of its input.

    Args:
      section: of the config.
      channels: of the images.
      backward: whether there is a backward pass.
      depth: the number of blocks that are computed; 0: all.
    """
    variant, patch = variants.parse(section.variant)
    variant = dataclasses.replace(variant, depth=depth or variant.depth)
    patches = area(grid_of(section.image_size, patch))
    embedding = 2 * patches * channels * patch**2 * variant.width
    blocks = block_flops(variant, patches + 1)
    return 3 * blocks + 2 * embedding if backward else blocks + embedding


def block_flops(variant: variants.Variant, tokens: int) -> int:
    """FLOPs of all blocks' forward pass for an image of n `tokens`."""
    width = variant.width
    return 2 * variant.depth * (12 * tokens * width**2 + 2 * tokens**2 * width)
