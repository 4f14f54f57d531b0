"""Tokenizers whose token is the nearest of k vectors, the codes, to a vector of the patch."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.models import codebook
from beit_jax.models.tokenizer import Tokenizer
from beit_jax.typing import Params


class NearestCodeTokenizer(Tokenizer):
    """See `Tokenizer`; the codes are the parameter `codebook/vectors` `[k, c]`."""

    def vectors(self, params: Params, images: jax.Array) -> jax.Array:
        """What is compared with the codes: float32 `[b, n, c]`, patches row-major."""
        raise NotImplementedError

    def targets(self, params: Params, images: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        """See `Tokenizer.targets`."""
        tokens = codebook.nearest(params["codebook"]["vectors"], self.vectors(params, images))
        if positions is not None:
            return jnp.take_along_axis(tokens, positions, axis=1)
        return rearrange(tokens, "b (h w) -> b h w", h=self.grid[0])

    def count_codes(self, tokens: jax.Array, valid: jax.Array) -> jax.Array:
        """How often each token occurs in `[b, n]`, float32 `[k]`, in the images that are `valid`, `[b]` of 0 and 1."""
        weights = jnp.broadcast_to(valid[:, None], tokens.shape)
        return jax.ops.segment_sum(weights.reshape(-1), tokens.reshape(-1), self.vocab)


class FixedVectorsTokenizer(NearestCodeTokenizer):
    """One whose vectors are not learned: its loss is the mean square of the difference between vectors and codes."""

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """See `Tokenizer.without_gradient`: all parameters."""
        return (r".*",)

    def measure(self, params: Params, teacher: Params, images: jax.Array, valid: jax.Array) -> dict[str, Any]:
        """See `Tokenizer.measure`."""
        vectors = self.vectors(params, images)
        tokens = codebook.nearest(params["codebook"]["vectors"], vectors)
        error = jnp.mean((vectors - params["codebook"]["vectors"][tokens]) ** 2, axis=(1, 2))
        return {"loss": (jnp.sum(error * valid), jnp.sum(valid)), "codes": self.count_codes(tokens, valid)}
