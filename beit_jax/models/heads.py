"""What stands on the encoder: the predictor of masked tokens, and the classifier."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from beit_jax.models import initializers
from beit_jax.models.vit import Encoder, layer_norm


class MaskedImageModel(nn.Module):
    """The model of the pre-training (official `VisionTransformerForMaskedImageModeling`).

    Attributes:
      encoder: with a mask token and a final norm.
      vocab: size v of the tokenizer's vocabulary.
    """

    encoder: Encoder
    vocab: int

    @nn.compact
    def __call__(
        self, images: jax.Array, mask: jax.Array | None, positions: jax.Array | None, *, train: bool = False
    ) -> jax.Array:
        """
        Args:
          images: `[b, H, W, 3]`, normalised.
          mask: bool `[b, g, g]`, or None: nothing is masked.
          positions: int32 `[b, k]`, patches to predict, counted row by row; None: all.
          train: stochastic depth is on.

        Returns:
          Logits, float32 `[b, k, v]`.
        """
        x = self.encoder(images, mask, train=train)[:, 1:]
        if positions is not None:
            x = jnp.take_along_axis(x, positions[..., None], axis=1)
        dtype = self.encoder.dtype
        init = initializers.weights(self.encoder.init_scheme)
        logits = nn.Dense(self.vocab, kernel_init=init, dtype=dtype, name="lm_head")(x.astype(dtype))
        return logits.astype(jnp.float32)


class ImageClassifier(nn.Module):
    """The model of the fine-tuning (official `modeling_finetune.VisionTransformer`).

    Attributes:
      encoder: without a final norm for mean pooling, with one for the class token.
      num_classes: c.
      pooling: "mean" of the patches, then a layer norm; or "cls".
      init_scale: factor of the head's initial weights; the logits start near 0.
    """

    encoder: Encoder
    num_classes: int
    pooling: str = "mean"
    init_scale: float = 0.001

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Images `[b, H, W, 3]`, normalised, to logits, float32 `[b, c]`."""
        x = self.encoder(images, train=train)
        x = layer_norm("fc_norm")(jnp.mean(x[:, 1:], axis=1)) if self.pooling == "mean" else x[:, 0]
        init = nn.initializers.normal(initializers.STDDEV * self.init_scale)
        return nn.Dense(self.num_classes, kernel_init=init, dtype=jnp.float32, name="head")(x)
