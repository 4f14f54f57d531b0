"""SETR-PUP on a BEiT encoder: progressive upsampling (arXiv 2012.15840, section 3.3; BEiT paper, section 3.2).

This is the head of the BEiT paper's segmentation tables. The official code lacks it; this one follows the code of
SETR's authors. The last block's map passes a layer norm. Convolutions and doublings then alternate until the image's
resolution is reached: four of each for patches of 16 pixels.

Auxiliary heads, for training only, take the last block and three before it. SETR's authors (and mmsegmentation) choose
blocks 9, 14, 19 of 24, counted from 0, and of 12 those at about the same depth, 4, 7, 9. mmsegmentation has no
auxiliary head on the last block.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from beit_jax.errors import UserError
from beit_jax.models.layer_norm import LayerNorm
from beit_jax.models.pixel_layers import ConvNorm, block_maps, pixel_logits, resize
from beit_jax.models.vit import Encoder


class UpHead(nn.Module):
    """Layer norm; convolutions, each followed by an upsampling; classifier.

    Attributes:
      num_classes: number of classes c.
      scales: the factor of upsampling after each convolution.
      channels: width of the convolutions.
      norm_eps: of the layer norm.
      dropout: see `SetrPup`.
      dtype: of the convolutions.
    """

    num_classes: int
    scales: tuple[int, ...]
    channels: int
    norm_eps: float
    dropout: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[b, h, w, d]` -> logits float32 `[b, s h, s w, c]`, s the product of the scales."""
        x = LayerNorm(self.norm_eps, name="norm")(x)
        for i, scale in enumerate(self.scales):
            x = ConvNorm(self.channels, 3, self.dtype, name=f"conv_{i}")(x, train)
            x = resize(x, (scale * x.shape[1], scale * x.shape[2]))
        return pixel_logits(x, self.num_classes, self.dropout, train)


class SetrPup(nn.Module):
    """Classes of pixels.

    Attributes:
      encoder: without a final norm, with a patch size that is a power of two.
      num_classes: number of classes c.
      channels: width of the heads.
      auxiliary_layers: the blocks, counted from 0, that auxiliary heads take; (9, 14, 19, 23) for L.
      dropout: rate at which the classifiers' input channels are left out in training, which needs the rng `dropout`;
        SETR has none.
    """

    encoder: Encoder
    num_classes: int
    channels: int = 256
    auxiliary_layers: tuple[int, ...] = (4, 7, 9, 11)
    dropout: float = 0.0

    def setup(self) -> None:
        patch = self.encoder.patch_size
        if patch < 2 or patch & (patch - 1):
            raise UserError(
                f"found the patch size {patch} under SETR-PUP, expected a power of two, since its head doubles the "
                "resolution until it is the image's; choose such a patch size or the head upernet"
            )
        doublings = patch.bit_length() - 1
        self.decode_head = self._head((2,) * (doublings - 1) + (1,))
        self.auxiliary_head = [self._head((min(4, patch),)) for _ in self.auxiliary_layers]

    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Images `[b, H, W, 3]`, normalised, of patch size p.

        Each head leaves its last upsampling to loss and inference, which resize logits to the labels anyway. The
        classifier is linear in each pixel, so that the order of the two changes nothing but time and memory.

        Returns:
          Logits float32 `[b, H/2, W/2, c]`, and auxiliary ones, `[b, 4 H/p, 4 W/p, c]` each.
        """
        outputs = self.encoder(images, train=train, all_layers=True)
        layers = (self.encoder.depth - 1, *self.auxiliary_layers)
        last, *others = block_maps(outputs, layers, images.shape[1] // self.encoder.patch_size)
        auxiliary = tuple(head(x, train) for head, x in zip(self.auxiliary_head, others, strict=True))
        return self.decode_head(last, train), auxiliary

    def _head(self, scales: tuple[int, ...]) -> UpHead:
        encoder = self.encoder
        return UpHead(self.num_classes, scales, self.channels, encoder.norm_eps, self.dropout, encoder.dtype)
