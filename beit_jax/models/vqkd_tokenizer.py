"""The tokenizer `vqkd` of BEiT v2: vector-quantised knowledge distillation (arXiv 2208.06366, section 2.1).

A token is the nearest of k codes to the vector that an encoder gives for a patch. Training minimises, over all patches,

    mean (1 - cos(prediction, teacher's features)) + beta mean |codes - vectors|^2,

where the decoder predicts the features from the codes. The second mean is over the numbers of the vectors. The codes
follow moving averages of the vectors (`codebook`).
"""

import dataclasses
import functools
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from beit_jax.models import codebook, variants, vqkd_sizes
from beit_jax.models.nearest_code import NearestCodeTokenizer
from beit_jax.models.teacher import features_on_grid
from beit_jax.models.vqkd import VqkdNetworks
from beit_jax.typing import Metrics, Params


@dataclasses.dataclass(frozen=True, eq=False)
class VqkdTokenizer(NearestCodeTokenizer):
    """See `Tokenizer`; images lie in [0, 1]."""

    against_collapse = "set loss.revive_below=0.1"
    loss_unit = "1 - cosine"
    metrics = MappingProxyType(
        {
            "loss": "distance and weighted commitment, on the evaluation set",
            "distance": "1 - cosine of the teacher's features and those that are predicted from the codes",
            "commitment": "mean square of the difference between vectors and their codes",
        }
    )

    @staticmethod
    def stride(section: Any) -> int:
        """See `Tokenizer.stride`."""
        return vqkd_sizes.stride(section)

    @functools.cached_property
    def model(self) -> VqkdNetworks:
        """The networks."""
        section = self.section
        variant, patch = variants.parse(section.variant)
        return VqkdNetworks(
            width=variant.width,
            depth=variant.depth,
            heads=variant.heads,
            patch_size=patch,
            decoder_depth=section.decoder_depth,
            code_width=section.code_width,
            target_width=self._target_width,
            grid=self.grid,
            unroll=self.settings.unroll if self.settings else 1,
            dtype=self.dtype,
        )

    def init(self, key: jax.Array) -> Params:
        """See `Tokenizer.init`."""
        of_networks, of_codebook = jax.random.split(key)
        codes = codebook.new_codebook(of_codebook, self.vocab, self.section.code_width)
        return {**self.model.init(of_networks, self.zeros())["params"], "codebook": codes}

    def vectors(self, params: Params, images: jax.Array) -> jax.Array:
        """See `NearestCodeTokenizer.vectors`; they have length 1."""
        return self.model.apply({"params": self._networks(params)}, images, method="encode")

    def encoder_params(self, params: Params) -> Params:
        """See `Tokenizer.encoder_params`."""
        return {name: params[name] for name in ("encoder", "encode_head", "codebook")}

    def target_flops(self) -> int:
        """See `Tokenizer.target_flops`."""
        return vqkd_sizes.encoder_flops(self.section, self.image_size, self.channels)

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """See `Tokenizer.without_gradient`."""
        return (r"^codebook/",)

    def loss(
        self, params: Params, teacher: Params, images: jax.Array, key: jax.Array, step: jax.Array
    ) -> tuple[Metrics, Params]:
        """See `Tokenizer.loss`; the new values are those of the codebook."""
        settings, (of_start, of_revival) = self.settings, jax.random.split(key)
        vectors = self.vectors(params, images)
        flat = jax.lax.stop_gradient(vectors.reshape(-1, vectors.shape[-1]))
        book = codebook.start_once(params["codebook"], of_start, flat)
        found = codebook.quantize(book["vectors"], vectors)
        distance = self._distance(params, found.vectors, self._features(teacher, images))
        count = jnp.float32(len(images))
        metrics = {
            "loss": jnp.sum(distance) + settings.commitment * found.commitment * count,
            "distance": jnp.sum(distance),
            "commitment": found.commitment * count,
        }
        book = codebook.move(book, found.tokens.reshape(-1), flat, settings.decay)
        if settings.revive_below:
            book = codebook.revive(book, of_revival, flat, settings.revive_below)
        return {name: (value, count) for name, value in metrics.items()}, {"codebook": book}

    def measure(self, params: Params, teacher: Params, images: jax.Array, valid: jax.Array) -> dict[str, Any]:
        """See `Tokenizer.measure`."""
        vectors = self.vectors(params, images)
        found = codebook.quantize(params["codebook"]["vectors"], vectors)
        distance = self._distance(params, found.vectors, self._features(teacher, images))
        commitment = jnp.mean((vectors - found.vectors) ** 2, axis=(1, 2))
        per_image = {
            "loss": distance + self.settings.commitment * commitment,
            "distance": distance,
            "commitment": commitment,
        }
        sums = {name: (jnp.sum(value * valid), jnp.sum(valid)) for name, value in per_image.items()}
        return sums | {"codes": self.count_codes(found.tokens, valid)}

    def training_flops(self) -> int:
        """Three forward passes of the networks, without gradients of the image and of distances; one of the teacher.

        The k-means of the first step is not counted.
        """
        section, size, channels = self.section, self.image_size, self.channels
        decoder = vqkd_sizes.decoder_flops(section, size, self._target_width)
        forward = vqkd_sizes.encoder_flops(section, size, channels) + decoder
        without = vqkd_sizes.first_layer_flops(section, size, channels) + 2 * vqkd_sizes.distance_flops(section, size)
        return 3 * forward - without + self.teacher.flops()

    @property
    def _target_width(self) -> int:
        """An untrained tokenizer without a teacher, whose decoder is not used, predicts as many numbers as it has."""
        own = variants.parse(self.section.variant)[0].width
        return self.section.target_width or (self.teacher.width if self.teacher else own)

    def _distance(self, params: Params, vectors: jax.Array, features: jax.Array) -> jax.Array:
        """1 - cosine of the features that are predicted from codes `[b, n, c]`, the mean over the patches `[b]`."""
        predicted = self.model.apply({"params": self._networks(params)}, vectors, self.grid[0], method="decode")
        lengths = jnp.linalg.norm(predicted, axis=-1) * jnp.linalg.norm(features, axis=-1)
        return jnp.mean(1.0 - jnp.sum(predicted * features, axis=-1) / lengths, axis=1)

    def _features(self, teacher: Params, images: jax.Array) -> jax.Array:
        """Of the teacher, on the grid of the tokens: `[b, n, t]`."""
        return jax.lax.stop_gradient(
            features_on_grid(self.teacher.features(teacher, images), self.teacher.grid, self.grid)
        )

    def _networks(self, params: Params) -> Params:
        return {name: tree for name, tree in params.items() if name != "codebook"}
