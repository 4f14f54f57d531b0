"""The tokenizers `kmeans` and `kmeans_features`: a token is the nearest of k means of patches (ClusterMIM, 2407.09087).

The vectors are the pixels of patches, or what a frozen network gives for them, at length 1. Nothing has a gradient.
"""

import dataclasses
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.models import clusters, codebook
from beit_jax.models.image_size import area
from beit_jax.models.nearest_code import FixedVectorsTokenizer
from beit_jax.models.patch_pixels import to_images, to_patches
from beit_jax.models.teacher import features_on_grid
from beit_jax.typing import Metrics, Params


class KMeansTokenizer(FixedVectorsTokenizer):
    """What `kmeans` and `kmeans_features` share: each batch moves the means (`clusters`)."""

    @staticmethod
    def stride(section: Any) -> int:
        """See `Tokenizer.stride`."""
        return section.patch

    def loss(
        self, params: Params, teacher: Params, images: jax.Array, key: jax.Array, step: jax.Array
    ) -> tuple[Metrics, Params]:
        """See `Tokenizer.loss`; the new values are all parameters."""
        params = self.with_teacher(params, teacher)
        vectors = self.vectors(params, images)
        found = clusters.update(params["codebook"], key, rearrange(vectors, "b n c -> (b n) c"))
        nearest = found["vectors"][codebook.nearest(found["vectors"], vectors)]
        error, count = jnp.mean((vectors - nearest) ** 2), jnp.float32(len(images))
        return {"loss": (error * count, count)}, params | {"codebook": found}

    def with_teacher(self, params: Params, teacher: Params) -> Params:
        """The parameters with those of the network that makes the vectors."""
        return params


@dataclasses.dataclass(frozen=True, eq=False)
class PixelKMeans(KMeansTokenizer):
    """See `Tokenizer`; images lie in [0, 1]."""

    can_decode = True
    against_collapse = "crop larger parts of the images in data.ops"
    loss_unit = "mean squared error of pixels"
    metrics = MappingProxyType({"loss": "mean squared error of pixels that are replaced by their mean, in [0, 1]"})

    def init(self, key: jax.Array) -> Params:
        """See `Tokenizer.init`."""
        return {"codebook": clusters.new_clusters(self.vocab, self.channels * self.section.patch**2)}

    def vectors(self, params: Params, images: jax.Array) -> jax.Array:
        """See `NearestCodeTokenizer.vectors`: pixels around 0, where rounding is small."""
        return to_patches(images - 0.5, self.grid)

    def decode(self, params: Params, tokens: jax.Array) -> jax.Array:
        """See `Tokenizer.decode`."""
        patches = params["codebook"]["vectors"][rearrange(tokens, "b h w -> b (h w)")]
        return jnp.clip(to_images(patches, tokens.shape[1:], self.channels) + 0.5, 0.0, 1.0)

    def target_flops(self) -> int:
        """See `Tokenizer.target_flops`: the products with all codes."""
        return 2 * area(self.grid) * self.vocab * self.channels * self.section.patch**2


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureKMeans(KMeansTokenizer):
    """See `Tokenizer`; images lie in [0, 1]. Its parameters hold a copy of those of the network, its teacher."""

    against_collapse = "take another layer of the teacher"
    loss_unit = "mean squared error of features"
    metrics = MappingProxyType({"loss": "mean squared error of features at length 1 that are replaced by their mean"})

    def init(self, key: jax.Array) -> Params:
        """See `Tokenizer.init`."""
        codes = clusters.new_clusters(self.vocab, self.teacher.width)
        return {"features": self.teacher.init(key), "codebook": codes}

    def with_teacher(self, params: Params, teacher: Params) -> Params:
        """See `KMeansTokenizer.with_teacher`."""
        return params | {"features": teacher}

    def vectors(self, params: Params, images: jax.Array) -> jax.Array:
        """See `NearestCodeTokenizer.vectors`."""
        return codebook.unit(
            features_on_grid(self.teacher.features(params["features"], images), self.teacher.grid, self.grid)
        )

    def target_flops(self) -> int:
        """See `Tokenizer.target_flops`: the network, and the products with all codes."""
        return self.teacher.flops() + 2 * area(self.grid) * self.vocab * self.teacher.width
