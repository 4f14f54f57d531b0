"""Sizes and arithmetic of VQ-KD, from its config section; needs neither Flax nor JAX."""

from typing import Any

from beit_jax.models import variants
from beit_jax.models.image_size import ImageSize, area, grid_of


def stride(section: Any) -> int:
    """Pixels along the side of the square that a token stands for: a patch."""
    return variants.parse(section.variant)[1]


def encoder_flops(section: Any, image_size: ImageSize, channels: int = 3) -> int:
    """FLOPs from an image to its tokens, counting matrix products."""
    variant, patch = variants.parse(section.variant)
    tokens = area(grid_of(image_size, patch))
    head = 2 * tokens * (variant.width**2 + variant.width * section.code_width)
    blocks = _blocks(variant, variant.depth, tokens + 1)
    return first_layer_flops(section, image_size, channels) + blocks + head + distance_flops(section, image_size)


def distance_flops(section: Any, image_size: ImageSize) -> int:
    """FLOPs of comparing all vectors of an image with all codes, for which there is no gradient."""
    return 2 * area(grid_of(image_size, stride(section))) * section.code_width * section.vocab


def decoder_flops(section: Any, image_size: ImageSize, target_width: int) -> int:
    """FLOPs from codes to the features that are predicted, counting matrix products."""
    variant, patch = variants.parse(section.variant)
    tokens = area(grid_of(image_size, patch))
    layers = section.code_width * variant.width + variant.width**2 + variant.width * target_width
    return _blocks(variant, section.decoder_depth, tokens + 1) + 2 * tokens * layers


def first_layer_flops(section: Any, image_size: ImageSize, channels: int = 3) -> int:
    """FLOPs of the layer that reads the image; its input needs no gradient."""
    variant, _ = variants.parse(section.variant)
    return 2 * area(image_size) * channels * variant.width


def _blocks(variant: variants.Variant, depth: int, n: int) -> int:
    """Of blocks on n tokens: 12 n d^2 products in projections and MLP, 2 n^2 d in attention."""
    return 2 * depth * (12 * n * variant.width**2 + 2 * n**2 * variant.width)
