"""The interface of a teacher: a frozen network whose features of patches a tokenizer learns to reconstruct.

A tokenizer of BEiT v2 (VQ-KD, section 2.2 of its paper) keeps what a teacher says of an image, and not the pixels. The
kinds of teachers are in `tasks.teachers`.
"""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from ml_collections import ConfigDict

from beit_jax.models import variants
from beit_jax.models.image_size import ImageSize, grid_of, sides
from beit_jax.models.pixel_statistics import Statistics
from beit_jax.typing import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """Turns an image into a feature of each patch. Its parameters are `{"encoder": ...}`, and are not learned.

    Attributes:
      section: of the config, with the keys of `config.teacher`.
      statistics: mean and standard deviation by which it normalizes pixels.
      dtype: of the matrix products.
      channels: of the images, c.
    """

    section: ConfigDict
    statistics: Statistics
    dtype: jnp.dtype = jnp.float32
    channels: int = 3

    own_statistics: ClassVar[Statistics]  # of the pixels of a kind, where the section names none
    own_norm_eps: ClassVar[float]  # the epsilon of its layer norms, where the section has 0

    @property
    def image_size(self) -> ImageSize:
        """Side in pixels of the images that the network sees, or their height and width."""
        return self.section.image_size

    @property
    def variant(self) -> variants.Variant:
        """The sizes of the network."""
        return variants.parse(self.section.variant)[0]

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return variants.parse(self.section.variant)[1]

    @property
    def norm_eps(self) -> float:
        """Epsilon of the layer norms."""
        return self.section.norm_eps or self.own_norm_eps

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return grid_of(self.image_size, self.patch_size)

    @property
    def width(self) -> int:
        """Numbers in a feature, c."""
        return self.variant.width

    @property
    def ignored(self) -> tuple[str, ...]:
        """Regular expressions of names that a checkpoint may hold beside the parameters."""
        return (r"^(?!encoder/)",)

    @functools.cached_property
    def network(self) -> nn.Module:
        """The network, with the parameters `encoder`."""
        raise NotImplementedError

    def init(self, key: jax.Array) -> Params:
        """Random parameters: for tests, and as a control that knows nothing."""
        image = jnp.zeros((1, *sides(self.image_size), self.channels), jnp.float32)
        return {"encoder": self.network.init(key, image)["params"]}

    def features(self, params: Params, pixels: jax.Array) -> jax.Array:
        """The features of patches. No gradient passes to the parameters or to the pixels.

        Args:
          params: of the teacher.
          pixels: float32 `[b, h, w, c]` in [0, 1]; those of another size are resized to `image_size`.

        Returns:
          float32 `[b, n, c]`, patches row-major on the network's own grid.
        """
        params, pixels = jax.lax.stop_gradient((params, pixels))
        mean, std = (jnp.asarray(numbers, jnp.float32)[None, None, None] for numbers in self.statistics)
        return self.encode(params, (resized(pixels, self.image_size) - mean) / std).astype(jnp.float32)

    def encode(self, params: Params, images: jax.Array) -> jax.Array:
        """The same for normalized images `[b, h, w, c]` of the network's own size."""
        raise NotImplementedError

    def flops(self) -> int:
        """FLOPs of `features` for an image of the network's own size, counting matrix products."""
        raise NotImplementedError


def resized(pixels: jax.Array, size: ImageSize) -> jax.Array:
    """Pixels in [0, 1] `[b, h, w, c]` -> the same of another size: bicubic, without aliases, and clipped to [0, 1]."""
    if pixels.shape[1:3] == sides(size):
        return pixels
    shape = (pixels.shape[0], *sides(size), pixels.shape[-1])
    return jnp.clip(jax.image.resize(pixels, shape, "bicubic", antialias=True), 0.0, 1.0)


def features_on_grid(features: jax.Array, own: tuple[int, int], grid: tuple[int, int]) -> jax.Array:
    """Features of patches on another grid, by bilinear interpolation between the centres of patches.

    It is PyTorch's `interpolate` with `align_corners=False`.

    Args:
      features: `[b, n, c]`, row-major.
      own: rows and columns of their grid.
      grid: of the other grid.

    Returns:
      `[b, n', c]`, row-major.
    """
    batch, patches, width = features.shape
    if own[0] * own[1] != patches:
        raise ValueError(f"found features of {patches} patches, expected {own[0]} x {own[1]}")
    if own == grid:
        return features
    maps = rearrange(features, "b (y x) c -> b y x c", y=own[0])
    maps = jax.image.resize(maps, (batch, *grid, width), "bilinear", antialias=False)
    return rearrange(maps, "b y x c -> b (y x) c")
