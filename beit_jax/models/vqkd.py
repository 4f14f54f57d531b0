"""The networks of BEiT v2's tokenizer, VQ-KD (arXiv 2208.06366, section 2.1; official `modeling_vqkd.py`).

An encoder gives a short vector for each patch. A decoder of few blocks predicts from the vectors, replaced by their
nearest codes, what a teacher makes of the patches.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.models.codebook import unit
from beit_jax.models.initializers import STDDEV
from beit_jax.models.vit import Encoder


class Head(nn.Module):
    """Two linear layers with a tanh between them, `[..., d]` -> float32 `[..., features]`.

    Attributes:
      features: of the result; the first layer keeps the width.
      dtype: of the matrix products.
      precision: of float32 products, which TPUs otherwise round.
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    precision: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for name, features in (("hidden", x.shape[-1]), ("out", self.features)):
            x = jnp.tanh(x) if name == "out" else x
            x = nn.Dense(
                features,
                dtype=self.dtype,
                precision=self.precision,
                kernel_init=nn.initializers.normal(STDDEV),
                name=name,
            )(x)
        return x.astype(jnp.float32)


class VqkdNetworks(nn.Module):
    """Encoder, decoder and their heads; the codebook between them is no parameter of theirs.

    Both are the encoder of BEiT with absolute positions alone, without LayerScale, and with a norm on every token. The
    decoder's patches are single vectors.

    Attributes:
      width: d of both.
      depth: blocks of the encoder.
      heads: attention heads of both.
      patch_size: side of a patch in pixels.
      decoder_depth: blocks of the decoder; 1 and 3 are published.
      code_width: c, numbers in a code.
      target_width: t, numbers that the teacher has for a patch.
      grid: of patches, see `Encoder`.
      unroll: blocks in one iteration of the loop over the blocks of each, see `stacked`.
      dtype: of the matrix products, but for those that make the codes' vectors.
    """

    width: int
    depth: int
    heads: int
    patch_size: int
    decoder_depth: int
    code_width: int
    target_width: int
    grid: tuple[int, int] | None = None
    unroll: int = 1
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        sizes = dict(width=self.width, heads=self.heads, absolute_positions=True, layer_scale=0.0, grid=self.grid)
        sizes |= dict(init_scheme="finetune", dtype=self.dtype)
        unroll, decoder_unroll = (min(self.unroll, depth) for depth in (self.depth, self.decoder_depth))
        self.encoder = Encoder(depth=self.depth, patch_size=self.patch_size, unroll=unroll, **sizes)
        # In float32 whatever the type of the products: a rounded vector may have another code.
        self.encode_head = Head(self.code_width, precision="highest")
        self.decoder = Encoder(depth=self.decoder_depth, patch_size=1, unroll=decoder_unroll, **sizes)
        self.decode_head = Head(self.target_width, self.dtype)

    def encode(self, images: jax.Array) -> jax.Array:
        """Images `[b, h, w, c]` in [0, 1] -> unit vectors float32 `[b, n, c]`, patches row-major."""
        return unit(self.encode_head(self.encoder(2.0 * images - 1.0)[:, 1:]))

    def decode(self, vectors: jax.Array, rows: int) -> jax.Array:
        """Codes `[b, n, c]` of a grid of so many rows -> the teacher's features, as predicted: float32 `[b, n, t]`."""
        return self.decode_head(self.decoder(rearrange(vectors, "b (h w) c -> b h w c", h=rows))[:, 1:])

    def __call__(self, images: jax.Array) -> jax.Array:
        """Both, without the codes between them, for making parameters."""
        return self.decode(self.encode(images), images.shape[1] // self.patch_size)
