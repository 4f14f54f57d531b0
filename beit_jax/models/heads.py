"""The model of masked image modelling: the encoder, and the head that predicts the visual tokens of patches."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from beit_jax.models.initializers import initializers
from beit_jax.models.logits import Logits
from beit_jax.models.vit import Encoder


class MaskedImageModel(nn.Module):
    """Predicts the visual tokens of patches (BEiT paper, section 2.3; official `modeling_pretrain.py`).

    Attributes:
      encoder: an encoder with a mask token and a final norm.
      vocab: v, the numbers that the head gives for a patch: as many as there are visual tokens. The task
        `pretrain_pixels` predicts pixels: there v is the number of values of a patch.
    """

    encoder: Encoder
    vocab: int

    @nn.compact
    def __call__(
        self, images: jax.Array, mask: jax.Array | None, positions: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Logits over visual tokens, float32 `[b, k, v]`.

        Args:
          images: `[b, H, W, 3]`, normalised.
          mask: bool `[b, gh, gw]`, true where a patch is hidden.
          positions: int32 `[b, k]`, row-major indices of the patches to predict; None for all n.
          train: whether stochastic depth is on (rng `drop_path`).
        """
        return self.head("lm_head")(patches_at(self.encoder(images, mask, train=train), positions))

    def scored(self, *args: Any, **kwargs: Any) -> jax.Array | tuple[jax.Array, jax.Array]:
        """As `__call__`: the logits that the loss counts, a pair in a model that predicts twice."""
        return self(*args, **kwargs)

    def head(self, name: str) -> Logits:
        """A layer from the d numbers of a patch to v."""
        kernel_init = initializers(self.encoder.init_scheme, self.encoder.patch_size).weight
        return Logits(self.vocab, kernel_init, self.encoder.dtype, name=name)


def patches_at(x: jax.Array, positions: jax.Array | None) -> jax.Array:
    """Tokens `[b, n+1, d]` to those of patches: `[b, k, d]` at `positions` `[b, k]`, or `[b, n, d]`."""
    return x[:, 1:] if positions is None else jnp.take_along_axis(x, positions[..., None] + 1, axis=1)
