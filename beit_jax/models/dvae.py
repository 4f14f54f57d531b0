"""DALL-E's discrete variational autoencoder, BEiT's visual tokenizer (arXiv 2102.12092, section 2.1 and appendix A).

Layers, sizes and parameter names are those of the package `dall_e` (github.com/openai/DALL-E): its weights fit.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from beit_jax.errors import UserError
from beit_jax.models.constrain import batch_sharded
from beit_jax.models.dvae_sizes import EPSILON
from beit_jax.models.xla_workarounds import convolution_without_overlap, halved


class Conv(nn.Module):
    """A convolution of stride 1 that keeps the size.

    Its kernels have `features` output channels and a side of `size` pixels, odd; `dtype` is of the computation.
    """

    features: int
    size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, H, W, c]` -> `[b, H, W, features]` in `dtype`."""
        kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        kernel = self.param("kernel", kernel_init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.size == 1:
            y = convolution_without_overlap(x, kernel)
        else:
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return batch_sharded(y + bias.astype(self.dtype)[None, None, None])


class ResidualPath(nn.Module):
    """Four convolutions, each after a ReLU, through a bottleneck of a quarter of the output channels.

    Attributes:
      features: output channels.
      sizes: sides of the four kernels.
      dtype: of the computation.
    """

    features: int
    sizes: tuple[int, int, int, int]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, H, W, c]` -> `[b, H, W, features]`."""
        widths = (*[self.features // 4] * 3, self.features)
        for i, (width, size) in enumerate(zip(widths, self.sizes, strict=True), start=1):
            x = Conv(width, size, self.dtype, name=f"conv_{i}")(nn.relu(x))
        return x


class ResidualBlock(nn.Module):
    """x + gain * residual path(x), with a 1x1 convolution on x if the number of channels changes.

    Attributes:
      features: output channels.
      sizes: sides of the residual path's kernels.
      gain: small constant that keeps deep stacks stable without normalisation.
      dtype: of the computation.
    """

    features: int
    sizes: tuple[int, int, int, int]
    gain: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, H, W, c]` -> `[b, H, W, features]`."""
        residual = ResidualPath(self.features, self.sizes, self.dtype, name="res_path")(x)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, self.dtype, name="id_path")(x)
        return x + self.gain * residual


class Group(nn.Module):
    """As many residual blocks as `blocks`; the other attributes are theirs."""

    blocks: int
    features: int
    sizes: tuple[int, int, int, int]
    gain: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, H, W, c]` -> `[b, H, W, features]`."""
        for i in range(1, self.blocks + 1):
            x = ResidualBlock(self.features, self.sizes, self.gain, self.dtype, name=f"block_{i}")(x)
        return x


class DvaeEncoder(nn.Module):
    """Pixels to logits over the codebook; attributes as in `DiscreteVAE`.

    Widths double from group to group, and every group but the last ends in 2x2 max-pooling.
    """

    vocab: int
    hidden: int
    groups: int
    blocks_per_group: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        """`[b, H, W, c]` in [0.1, 0.9] -> float32 `[b, g, g, v]`.

        With row-major `positions` int32 `[b, k]`, those alone, `[b, 1, k, v]`: the last layer is an eighth of the work.
        """
        gain = 1.0 / (self.groups * self.blocks_per_group) ** 2
        x = Conv(self.hidden, 7, self.dtype, name="input")(images)
        for i in range(self.groups):
            width = self.hidden * 2**i
            x = Group(self.blocks_per_group, width, (3, 3, 3, 1), gain, self.dtype, name=f"group_{i + 1}")(x)
            if i < self.groups - 1:
                x = halved(x)
        if positions is not None:
            flat = rearrange(x, "b h w c -> b (h w) c")
            x = jnp.take_along_axis(flat, positions[..., None], axis=1)[:, None]
        with jax.default_matmul_precision("high"):  # else TPUs would round to bfloat16 what decides between tokens
            return Conv(self.vocab, 1, name="output")(nn.relu(x))


class CodebookVectors(nn.Module):
    """The decoder's first 1x1 convolution; for tokens it looks up what the product with their one-hot would be.

    Attributes:
      features: output channels.
      vocab: size of the codebook v.
    """

    features: int
    vocab: int

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        """Weights `[b, g, g, v]` or tokens int32 `[b, g, g]` -> float32 `[b, g, g, features]`."""
        kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        kernel = self.param("kernel", kernel_init, (1, 1, self.vocab, self.features), jnp.float32)[0, 0]
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        vectors = jnp.take(kernel, codes, axis=0) if jnp.issubdtype(codes.dtype, jnp.integer) else codes @ kernel
        return vectors + bias[None, None, None]


class DvaeDecoder(nn.Module):
    """Codes to the distribution of pixels; attributes as in `DiscreteVAE`.

    Widths halve from group to group, and every group but the last ends in 2x nearest-neighbour upsampling.
    """

    vocab: int
    hidden: int
    groups: int
    blocks_per_group: int
    decoder_init: int
    channels: int = 3
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        """Weights `[b, g, g, v]` or tokens int32 `[b, g, g]` -> float32 `[b, H, W, 2c]`."""
        gain = 1.0 / (self.groups * self.blocks_per_group) ** 2
        x = CodebookVectors(self.decoder_init, self.vocab, name="input")(codes).astype(self.dtype)
        for i in range(self.groups):
            width = self.hidden * 2 ** (self.groups - 1 - i)
            x = Group(self.blocks_per_group, width, (1, 3, 3, 3), gain, self.dtype, name=f"group_{i + 1}")(x)
            if i < self.groups - 1:
                x = repeat(x, "b h w c -> b (h 2) (w 2) c")
        return Conv(2 * self.channels, 1, self.dtype, name="output")(nn.relu(x)).astype(jnp.float32)


class DiscreteVAE(nn.Module):
    """Encoder, relaxed or discrete codes, decoder.

    The defaults are the published sizes: 53,786,240 and 43,829,766 parameters.

    Attributes:
      vocab: size of the codebook v.
      hidden: width of the encoder's first group and of the decoder's last.
      groups: groups of blocks in each; a token covers a square of 2 ** (groups - 1) pixels a side.
      blocks_per_group: residual blocks in a group.
      decoder_init: width of the vectors of the codebook.
      channels: of the images, c.
      dtype: of the convolutions, except those next to the codes, which are always float32.
    """

    vocab: int = 8192
    hidden: int = 256
    groups: int = 4
    blocks_per_group: int = 2
    decoder_init: int = 128
    channels: int = 3
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        sizes = (self.vocab, self.hidden, self.groups, self.blocks_per_group)
        self.encoder = DvaeEncoder(*sizes, dtype=self.dtype)
        self.decoder = DvaeDecoder(*sizes, self.decoder_init, self.channels, self.dtype)

    def __call__(
        self, images: jax.Array, key: jax.Array, temperature: jax.Array | float, straight_through: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Encodes, draws relaxed codes and decodes, as in training.

        Args:
          images: `[b, H, W, c]` in [0.1, 0.9].
          key: random key of the draw.
          temperature: of the relaxation, see `gumbel_softmax`.
          straight_through: see `gumbel_softmax`.

        Returns: outputs float32 `[b, H, W, 2c]`, see `decode`, and logits float32 `[b, g, g, v]`.
        """
        logits = self.encode(images)
        return self.decode(gumbel_softmax(key, logits, temperature, straight_through)), logits

    def encode(self, images: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        """Images `[b, H, W, c]` in [0.1, 0.9] (`map_pixels`) -> logits over the codebook; see `DvaeEncoder`."""
        height, width = images.shape[1:3]
        stride = 2 ** (self.groups - 1)
        if height % stride or width % stride:
            raise UserError(
                f"found images of {height}x{width} pixels, expected multiples of {stride}, the pixels per token of a "
                f"tokenizer with {self.groups} groups: resize them or change `groups`"
            )
        return self.encoder(images, positions)

    def tokens(self, images: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        """Images `[b, H, W, c]` in [0.1, 0.9] -> the most likely tokens, int32 `[b, g, g]`; `[b, k]` of `positions`."""
        found = jnp.argmax(self.encode(images, positions), axis=-1).astype(jnp.int32)
        return found if positions is None else found[:, 0]

    def decode(self, z: jax.Array) -> jax.Array:
        """Weights over the codebook `[b, g, g, v]` -> `[b, H, W, 2c]`: mu of the c channels, then ln b."""
        return self.decoder(z)

    def decode_tokens(self, tokens: jax.Array) -> jax.Array:
        """Tokens int32 `[b, g, g]` -> `[b, H, W, 2c]`, what `decode` makes of their one-hot vectors."""
        return self.decoder(tokens)


def map_pixels(pixels: jax.Array) -> jax.Array:
    """[0, 1] -> [0.1, 0.9], linearly."""
    return (1.0 - 2.0 * EPSILON) * pixels + EPSILON


def unmap_pixels(x: jax.Array) -> jax.Array:
    """[0.1, 0.9] -> [0, 1], the inverse of `map_pixels`; values outside are clipped."""
    return jnp.clip((x - EPSILON) / (1.0 - 2.0 * EPSILON), 0.0, 1.0)


def gumbel_softmax(
    key: jax.Array, logits: jax.Array, temperature: jax.Array | float, straight_through: bool = False
) -> jax.Array:
    """A relaxed draw `[..., v]` from a categorical distribution, softmax((logits + Gumbel noise) / temperature).

    Args:
      key: random key.
      logits: float32 `[..., v]`.
      temperature: positive; towards 0 draws become one-hot.
      straight_through: return the one-hot vector of the maximum, with the gradient of the relaxed draw.
    """
    noise = jax.random.gumbel(key, logits.shape, logits.dtype)
    soft = jax.nn.softmax((logits + noise) / temperature)
    if not straight_through:
        return soft
    hard = jax.nn.one_hot(jnp.argmax(soft, axis=-1), logits.shape[-1], dtype=soft.dtype)
    return hard + (soft - jax.lax.stop_gradient(soft))


def logit_laplace_log_likelihood(x: jax.Array, outputs: jax.Array) -> jax.Array:
    """Log density `[b, H, W, c]`, in nats, of pixels whose logit has a Laplace distribution (arXiv 2102.12092, A.3):

        ln f(x) = -|logit(x) - mu| / b - ln(2 b x (1 - x)).

    Args:
      x: `[b, H, W, c]` in (0, 1), from `map_pixels`.
      outputs: `[b, H, W, 2c]`, mu and ln b from the decoder.
    """
    mu, log_b = jnp.split(outputs, 2, axis=-1)
    log_x, log_rest = jnp.log(x), jnp.log1p(-x)
    return -jnp.abs(log_x - log_rest - mu) * jnp.exp(-log_b) - jnp.log(2.0) - log_b - log_x - log_rest


def reconstruction(outputs: jax.Array) -> jax.Array:
    """The median image of the decoder's distribution, `[b, H, W, 2c]` -> `[b, H, W, c]` in [0, 1]."""
    return unmap_pixels(jax.nn.sigmoid(jnp.split(outputs, 2, axis=-1)[0]))
