"""The model of masked image modelling: the encoder, and the head that predicts the visual tokens of patches."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from beit_jax.models.initializers import initializers
from beit_jax.models.vit import Encoder
from beit_jax.models.xla_workarounds import float32_product


class Logits(nn.Module):
    """A linear layer, `kernel` `[d, c]` and `bias` `[c]`, that multiplies in `dtype` and returns float32.

    In bfloat16, logits that are almost equal would be rounded to the same number.
    """

    classes: int
    kernel_init: Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., d]` -> float32 `[..., c]`."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.classes), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.classes,), jnp.float32)
        product = float32_product(x.astype(self.dtype), kernel.astype(self.dtype))
        return product + jnp.expand_dims(bias, range(x.ndim - 1))


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
        x = self.encoder(images, mask, train=train)
        x = x[:, 1:] if positions is None else jnp.take_along_axis(x, positions[..., None] + 1, axis=1)
        kernel_init = initializers(self.encoder.init_scheme, self.encoder.patch_size).weight
        return Logits(self.vocab, kernel_init, self.encoder.dtype, name="lm_head")(x)
