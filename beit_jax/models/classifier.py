"""The head of fine-tuning: it predicts an image's class."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from beit_jax.models.initializers import STDDEV
from beit_jax.models.layer_norm import LayerNorm
from beit_jax.models.logits import Logits
from beit_jax.models.vit import Encoder


class ImageClassifier(nn.Module):
    """Predicts an image's class (BEiT paper, section 2.6; `VisionTransformer` in the official `modeling_finetune.py`).

    Attributes:
      encoder: without a final norm for `pooling="mean"`, with it for `pooling="cls"`.
      num_classes: number of classes c.
      pooling: what the class is predicted from, the normalised mean of the patches or the class token.
      init_scale: factor on the initial head, so that training starts near uniform predictions (`--init_scale`).

    Examples:
      >>> from beit_jax.models.classifier import ImageClassifier
      >>> from beit_jax.models.vit import Encoder
      >>> encoder = Encoder(width=32, depth=2, heads=2, patch_size=4, final_norm=False)
      >>> model, images = ImageClassifier(encoder, num_classes=5), jnp.zeros((2, 16, 16, 3))
      >>> logits, variables = jax.jit(model.init_with_output)(jax.random.key(0), images)
      >>> logits.shape
      (2, 5)
    """

    encoder: Encoder
    num_classes: int
    pooling: Literal["mean", "cls"] = "mean"
    init_scale: float = 0.001

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Images `[b, H, W, 3]`, normalised -> logits float32 `[b, c]`; `train` turns on stochastic depth."""
        if self.encoder.final_norm != (self.pooling == "cls"):
            raise ValueError(
                f"found pooling={self.pooling!r} with final_norm={self.encoder.final_norm} in the encoder; expected a "
                "final norm for 'cls' and none for 'mean'"
            )
        x = self.encoder(images, train=train)
        if self.pooling == "cls":
            x = x[:, 0]
        else:
            x = LayerNorm(self.encoder.norm_eps, name="fc_norm")(jnp.mean(x[:, 1:], axis=1))
        kernel_init = nn.initializers.normal(STDDEV * self.init_scale)
        return Logits(self.num_classes, kernel_init, self.encoder.dtype, name="head")(x)
