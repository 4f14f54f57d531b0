"""The tokenizer `dvae`: DALL-E's discrete variational autoencoder (DALL-E paper, section 2.1 and appendix A.2).

Its loss is the negative evidence lower bound per value of the image,

    ( -log p(x | z) + beta * KL(q(z | x) || uniform) ) / (H W c),

with z relaxed by Gumbel-softmax at a temperature that is annealed, beta raised from 0, and a logit-Laplace likelihood.
The KL is a sum over the token grid. Dividing it by the number of pixel values makes its weight for each position
beta / 192 at the paper's 256x256 images and stride 8.
"""

import dataclasses
import functools
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.models import dvae, dvae_sizes
from beit_jax.models.image_size import area
from beit_jax.models.tokenizer import Tokenizer, kl_to_uniform
from beit_jax.typing import Metrics, Params


@dataclasses.dataclass(frozen=True, eq=False)
class DvaeTokenizer(Tokenizer):
    """See `Tokenizer`; images lie in [0.1, 0.9] (`dvae.map_pixels`)."""

    can_decode = True
    has_likelihood = True
    against_collapse = "give loss.kl_weight its full size from the start (loss.kl_warmup='1 step')"
    loss_unit = "nats per pixel value"
    metrics = MappingProxyType(
        {
            "loss": "negative bound per pixel value, on the evaluation set",
            "nll": "reconstruction term of the bound, nats per image",
            "kl": "divergence of the codes from uniform, nats per image",
            "absolute_error": "of the reconstruction, in units of the pixel range",
        }
    )

    @staticmethod
    def stride(section: ConfigDict) -> int:
        """See `Tokenizer.stride`."""
        return dvae_sizes.stride(section)

    @functools.cached_property
    def model(self) -> dvae.DiscreteVAE:
        """The network."""
        section = self.section
        return dvae.DiscreteVAE(
            vocab=section.vocab,
            hidden=section.hidden,
            groups=section.groups,
            blocks_per_group=section.blocks_per_group,
            decoder_init=section.decoder_init,
            channels=self.channels,
            dtype=self.dtype,
        )

    def init(self, key: jax.Array) -> Params:
        """See `Tokenizer.init`."""
        return self.model.init(key, self.zeros(), key, 1.0)["params"]

    def targets(self, params: Params, images: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        """See `Tokenizer.targets`: the most likely token."""
        return self.model.apply({"params": params}, images, positions, method="tokens")

    def encoder_params(self, params: Params) -> Params:
        """See `Tokenizer.encoder_params`."""
        return params["encoder"]

    def from_pixels(self, pixels: jax.Array) -> jax.Array:
        """[0, 1] -> [0.1, 0.9]."""
        return dvae.map_pixels(pixels)

    def to_pixels(self, images: jax.Array) -> jax.Array:
        """[0.1, 0.9] -> [0, 1]."""
        return dvae.unmap_pixels(images)

    def decode(self, params: Params, tokens: jax.Array) -> jax.Array:
        """See `Tokenizer.decode`."""
        return dvae.reconstruction(self.model.apply({"params": params}, tokens, method="decode_tokens"))

    def posterior(self, params: Params, images: jax.Array) -> jax.Array:
        """See `Tokenizer.posterior`."""
        return self.model.apply({"params": params}, images, method="encode")

    def log_likelihood(self, params: Params, images: jax.Array, tokens: jax.Array) -> jax.Array:
        """See `Tokenizer.log_likelihood`."""
        outputs = self.model.apply({"params": params}, tokens, method="decode_tokens")
        return jnp.sum(dvae.logit_laplace_log_likelihood(images, outputs), axis=(1, 2, 3))

    def loss(
        self, params: Params, teacher: Params, images: jax.Array, key: jax.Array, step: jax.Array
    ) -> tuple[Metrics, Params]:
        """See `Tokenizer.loss`."""
        settings = self.settings
        annealing, warmup = _steps(settings.annealing), _steps(settings.kl_warmup)
        temperature = cosine(settings.temperature_start, settings.temperature_end, annealing, step)
        kl_weight = cosine(0.0, settings.kl_weight, warmup, step)
        outputs, logits = self.model.apply({"params": params}, images, key, temperature, settings.straight_through)
        per_image = self._terms(images, outputs, logits, kl_weight)
        count, one = jnp.float32(images.shape[0]), jnp.float32(1.0)
        metrics = {name: (jnp.sum(value), count) for name, value in per_image.items()}
        return metrics | {"temperature": (temperature, one), "kl_weight": (kl_weight, one)}, {}

    def measure(self, params: Params, teacher: Params, images: jax.Array, valid: jax.Array) -> dict[str, Any]:
        """See `Tokenizer.measure`; the images are reconstructed from their most likely tokens."""
        variables, logits = {"params": params}, self.posterior(params, images)
        tokens = jnp.argmax(logits, axis=-1)
        outputs = self.model.apply(variables, tokens, method="decode_tokens")
        per_image = self._terms(images, outputs, logits, self.settings.kl_weight)
        used = jax.nn.one_hot(tokens, self.vocab).sum(axis=(1, 2))
        sums = {name: (jnp.sum(value * valid), jnp.sum(valid)) for name, value in per_image.items()}
        return {"codes": jnp.einsum("b,bv->v", valid, used), **sums}

    def target_flops(self) -> int:
        """See `Tokenizer.target_flops`."""
        return dvae_sizes.encoder_flops(self.section, self.image_size, self.channels)

    def training_flops(self) -> int:
        """Forward pass and two of its size backward; the layer that reads the images needs no gradient of its input."""
        sizes = self.section, self.image_size, self.channels
        forward = dvae_sizes.encoder_flops(*sizes) + dvae_sizes.decoder_flops(*sizes)
        return 3 * forward - dvae_sizes.first_layer_flops(*sizes)

    def _terms(
        self, images: jax.Array, outputs: jax.Array, logits: jax.Array, kl_weight: jax.Array | float
    ) -> dict[str, jax.Array]:
        """Per image `[b]`: the bound's terms in nats, the error in units of the pixel range, the loss per value."""
        error = jnp.abs(dvae.unmap_pixels(images) - dvae.reconstruction(outputs))
        nll = -jnp.sum(dvae.logit_laplace_log_likelihood(images, outputs), axis=(1, 2, 3))
        kl = jnp.sum(kl_to_uniform(logits), axis=(1, 2))
        loss = (nll + kl_weight * kl) / (area(self.image_size) * self.channels)
        return {"nll": nll, "kl": kl, "absolute_error": jnp.mean(error, axis=(1, 2, 3)), "loss": loss}


def cosine(start: float, end: float, steps: int, step: jax.Array) -> jax.Array:
    """From `start` to `end` along half a cosine over `steps`, then constant (appendix A.2: a linear one diverged)."""
    progress = jnp.clip(step.astype(jnp.float32) / max(steps, 1), 0.0, 1.0)
    return end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def _steps(duration: str) -> int:
    """The number in "200 steps"; 0 of an empty text. An experiment puts steps in place of epochs and percentages."""
    return int(duration.partition(" ")[0] or 0)
