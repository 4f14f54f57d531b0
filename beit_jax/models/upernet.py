"""UPerNet on a BEiT encoder (arXiv 1807.10221; official `semantic_segmentation`, `upernet_beit.py`).

It has a pyramid of four resolutions, made of the outputs of four blocks, pooled context on the coarsest level, a
top-down path, and a classifier of every pixel at a quarter of the image's resolution. For training there is an
auxiliary classifier.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce

from beit_jax.models.initializers import transposed_uniform
from beit_jax.models.pixel_layers import BatchNorm, ConvNorm, block_maps, pixel_logits, resize
from beit_jax.models.vit import Encoder

POOLED = (1, 2, 3, 6)  # sides of the grids of pooled context


class Upsample2(nn.Module):
    """Transposed convolution of kernel and stride 2: each cell becomes 2x2; `[b, h, w, c]` -> `[b, 2h, 2w, c]`.

    The kernel is `[2, 2, in, out]`. Without overlap it is a matrix product.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        init = transposed_uniform(width, pixels=4)
        kernel = self.param("kernel", init, (2, 2, width, width), jnp.float32)
        bias = self.param("bias", init, (width,), jnp.float32)
        x = jnp.einsum("bhwi,yxio->bhywxo", x.astype(self.dtype), kernel.astype(self.dtype))
        return rearrange(x, "b h y w x c -> b (h y) (w x) c") + bias.astype(self.dtype)[None, None, None]


class Pyramid(nn.Module):
    """Four maps `[b, g, g, d]` -> maps at 4, 2, 1 and 1/2 times the resolution of the patches."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: list[jax.Array], train: bool) -> list[jax.Array]:
        finest = nn.gelu(BatchNorm(name="norm")(Upsample2(self.dtype, name="up_1")(maps[0]), train), approximate=False)
        return [
            Upsample2(self.dtype, name="up_2")(finest),
            Upsample2(self.dtype, name="up_3")(maps[1]),
            maps[2],
            reduce(maps[3], "b (h 2) (w 2) c -> b h w c", "max"),
        ]


class UperHead(nn.Module):
    """Pooled context, top-down path, fusion, classifier; attributes as in `UperNet`."""

    num_classes: int
    channels: int
    dropout: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: list[jax.Array], train: bool) -> jax.Array:
        """Maps from fine to coarse -> logits float32 `[b, h, w, c]` of the finest."""

        def layer(features: int, size: int, name: str, x: jax.Array) -> jax.Array:
            return ConvNorm(features, size, self.dtype, name=name)(x, train)

        coarse = maps[-1]
        context = [
            resize(layer(self.channels, 1, f"pool_{i}", average_pool(coarse, side)), coarse.shape[1:3])
            for i, side in enumerate(POOLED)
        ]
        levels = [layer(self.channels, 1, f"lateral_{i}", level) for i, level in enumerate(maps[:-1])]
        levels.append(layer(self.channels, 3, "bottleneck", jnp.concatenate([coarse, *context], axis=-1)))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resize(levels[i], levels[i - 1].shape[1:3])
        finest = levels[0].shape[1:3]
        smooth = [layer(self.channels, 3, f"fpn_{i}", level) for i, level in enumerate(levels[:-1])] + [levels[-1]]
        fused = layer(self.channels, 3, "fusion", jnp.concatenate([resize(x, finest) for x in smooth], axis=-1))
        return pixel_logits(fused, self.num_classes, self.dropout, train)


class FcnHead(nn.Module):
    """The auxiliary head: one convolution and a classifier on the pyramid's third level."""

    num_classes: int
    channels: int
    dropout: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[b, h, w, d]` -> logits float32 `[b, h, w, c]`."""
        x = ConvNorm(self.channels, 3, self.dtype, name="conv_0")(x, train)
        return pixel_logits(x, self.num_classes, self.dropout, train)


class UperNet(nn.Module):
    """Classes of pixels.

    Attributes:
      encoder: without a final norm.
      num_classes: number of classes c.
      channels: width of the head; 768 for B, 1024 for L.
      layers: the four blocks, counted from 0, whose outputs make the pyramid.
      auxiliary_channels: width of the auxiliary head.
      dropout: rate at which the classifiers' input channels are left out in training, which needs the rng `dropout`.
    """

    encoder: Encoder
    num_classes: int
    channels: int = 768
    layers: tuple[int, int, int, int] = (3, 5, 7, 11)
    auxiliary_channels: int = 256
    dropout: float = 0.1

    def setup(self) -> None:
        self.pyramid = Pyramid(self.encoder.dtype)
        self.decode_head = UperHead(self.num_classes, self.channels, self.dropout, self.encoder.dtype)
        self.auxiliary_head = FcnHead(self.num_classes, self.auxiliary_channels, self.dropout, self.encoder.dtype)

    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Images `[b, H, W, 3]`, normalised, of patch size p and an even number of patches a side.

        Returns:
          Logits float32 `[b, 4 H/p, 4 W/p, c]`, and auxiliary ones of one head `[b, H/p, W/p, c]`.
        """
        outputs = self.encoder(images, train=train, all_layers=True)
        maps = block_maps(outputs, self.layers, images.shape[1] // self.encoder.patch_size)
        levels = self.pyramid(maps, train)
        return self.decode_head(levels, train), (self.auxiliary_head(levels[2], train),)


def average_pool(x: jax.Array, side: int) -> jax.Array:
    """`[b, h, w, c]` -> `[b, side, side, c]`, means over windows that cover the map and may overlap (PyTorch)."""

    def weights(length: int) -> np.ndarray:
        matrix = np.zeros((side, length), np.float32)
        for i in range(side):
            start, stop = i * length // side, -(-(i + 1) * length // side)
            matrix[i, start:stop] = 1.0 / (stop - start)
        return matrix

    return jnp.einsum("yh,xw,bhwc->byxc", weights(x.shape[1]), weights(x.shape[2]), x)
