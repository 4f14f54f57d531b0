"""The tokenizer `random_projection`: random codes, and a random projection of pixels (BEST-RQ, arXiv 2202.01855).

It was made for speech. Nothing is learned: all numbers follow from the seed of the run. The pixels of each patch are
standardised, as the paper's input is, since otherwise brightness alone would decide the token.
"""

import dataclasses
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from beit_jax.models import codebook
from beit_jax.models.image_size import area
from beit_jax.models.nearest_code import FixedVectorsTokenizer
from beit_jax.models.patch_pixels import to_patches
from beit_jax.typing import Metrics, Params

EPSILON = 1e-6  # of the variance of a patch's pixels, as in MAE's standardised ones


@dataclasses.dataclass(frozen=True, eq=False)
class RandomProjection(FixedVectorsTokenizer):
    """See `Tokenizer`; images lie in [0, 1]."""

    loss_unit = "mean square of the difference between vectors and codes"
    metrics = MappingProxyType({"loss": "mean square of the difference between projected patches and their codes"})

    @staticmethod
    def stride(section: Any) -> int:
        """See `Tokenizer.stride`."""
        return section.patch

    def init(self, key: jax.Array) -> Params:
        """See `Tokenizer.init`: the projection by Xavier, the codes from a normal distribution, as in the paper."""
        of_projection, of_codes = jax.random.split(key)
        section = self.section
        shape = (self.channels * section.patch**2, section.code_width)
        codes = jax.random.normal(of_codes, (section.vocab, section.code_width), jnp.float32)
        projection = jax.nn.initializers.xavier_uniform()(of_projection, shape, jnp.float32)
        return {"projection": projection, "codebook": {"vectors": codebook.unit(codes)}}

    def vectors(self, params: Params, images: jax.Array) -> jax.Array:
        """See `NearestCodeTokenizer.vectors`; a patch of one colour has the vector 0, and so the first token."""
        patches = to_patches(images, self.grid)
        centred = patches - jnp.mean(patches, axis=-1, keepdims=True)
        scaled = centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + EPSILON)
        return codebook.unit(jnp.einsum("bnp,pc->bnc", scaled, params["projection"], precision="highest"))

    def target_flops(self) -> int:
        """See `Tokenizer.target_flops`."""
        return 2 * area(self.grid) * self.section.code_width * (self.channels * self.section.patch**2 + self.vocab)

    def loss(
        self, params: Params, teacher: Params, images: jax.Array, key: jax.Array, step: jax.Array
    ) -> tuple[Metrics, Params]:
        """See `Tokenizer.loss`; nothing changes."""
        ones = jnp.ones((len(images),), jnp.float32)
        return {"loss": self.measure(params, teacher, images, ones)["loss"]}, {}
