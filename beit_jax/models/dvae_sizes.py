"""Sizes and arithmetic of the dVAE, from its config section; needs neither Flax nor JAX."""

from typing import Any

from beit_jax.models.image_size import ImageSize, area, grid_of

EPSILON = 0.1  # its pixels lie in [0.1, 0.9], away from 0 and 1, where the logit diverges


def stride(section: Any) -> int:
    """Pixels along the side of the square that a token stands for: every group but the last halves the resolution."""
    return 2 ** (section.groups - 1)


def encoder_flops(section: Any, image_size: ImageSize, channels: int = 3) -> int:
    """FLOPs of the encoder's forward pass for an image, counting products of matrices and convolutions."""
    width_in = section.hidden
    products = area(image_size) * 7 * 7 * channels * section.hidden
    for group in range(section.groups):
        width, pixels = section.hidden * 2**group, area(grid_of(image_size, 2**group))
        for _ in range(section.blocks_per_group):
            products += pixels * _block(width_in, width, (9, 9, 9, 1))
            width_in = width
    return 2 * (products + pixels * width_in * section.vocab)


def decoder_flops(section: Any, image_size: ImageSize, channels: int = 3) -> int:
    """FLOPs of the decoder's forward pass for an image, for codes that are not one-hot."""
    tokens, width_in = area(grid_of(image_size, stride(section))), section.decoder_init
    products = tokens * section.vocab * width_in
    for group in range(section.groups):
        width, pixels = section.hidden * 2 ** (section.groups - 1 - group), tokens * 4**group
        for _ in range(section.blocks_per_group):
            products += pixels * _block(width_in, width, (1, 9, 9, 9))
            width_in = width
    return 2 * (products + pixels * width_in * 2 * channels)


def first_layer_flops(section: Any, image_size: ImageSize, channels: int = 3) -> int:
    """FLOPs of the layer that reads the image; its input needs no gradient."""
    return 2 * area(image_size) * 7 * 7 * channels * section.hidden


def _block(width_in: int, width: int, taps: tuple[int, int, int, int]) -> int:
    """Products per pixel of a residual block: four convolutions of so many taps, and 1x1 where the width changes."""
    hidden = width // 4
    path = zip(taps, (width_in, hidden, hidden, hidden), (hidden, hidden, hidden, width), strict=True)
    return sum(tap * before * after for tap, before, after in path) + (width_in * width if width_in != width else 0)
