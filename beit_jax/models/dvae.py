"""The visual tokenizer: the discrete variational autoencoder of DALL-E (arXiv 2102.12092, appendix A.2).

Shapes: b images, g side of the token grid, v vocabulary. The stride is 2^(groups - 1). Images are given in [0.1, 0.9]
(`map_pixels`), where the logit-Laplace likelihood is finite. There are no norms: every convolution but the first
follows a ReLU, and residual paths are scaled down by the square of their number.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import repeat

from beit_jax.errors import UserError

EPSILON = 0.1


def map_pixels(x: jax.Array) -> jax.Array:
    """[0, 1] to [0.1, 0.9]."""
    return (1.0 - 2.0 * EPSILON) * x + EPSILON


def unmap_pixels(x: jax.Array) -> jax.Array:
    """The inverse of `map_pixels`, clipped to [0, 1]."""
    return jnp.clip((x - EPSILON) / (1.0 - 2.0 * EPSILON), 0.0, 1.0)


def reconstruction(outputs: jax.Array) -> jax.Array:
    """The likeliest image in [0, 1], `[b, H, W, 3]`, of the decoder's outputs `[b, H, W, 6]`."""
    return unmap_pixels(jax.nn.sigmoid(outputs[..., :3]))


def logit_laplace_log_likelihood(x: jax.Array, outputs: jax.Array) -> jax.Array:
    """log p(x) of p(x | m, s) = exp(-|logit(x) - m| / s) / (2 s x (1 - x)), for each value.

    Args:
      x: `[b, H, W, 3]` in (0, 1), from `map_pixels`.
      outputs: `[b, H, W, 6]`, m for the three colours, then ln s.

    Returns:
      `[b, H, W, 3]` in nats.
    """
    mean, log_scale = jnp.split(outputs, 2, axis=-1)
    distance = jnp.abs(jnp.log(x) - jnp.log1p(-x) - mean)
    return -distance * jnp.exp(-log_scale) - math.log(2.0) - log_scale - jnp.log(x) - jnp.log1p(-x)


def gumbel_softmax(
    key: jax.Array, logits: jax.Array, temperature: jax.Array | float, straight_through: bool = False
) -> jax.Array:
    """A relaxed sample of the categorical distribution, `[..., v]`, sums to 1.

    Args:
      key: PRNG key.
      logits: `[..., v]`.
      temperature: above 0; towards 0 the samples become one-hot.
      straight_through: one-hot samples with the gradient of the relaxed ones.
    """
    noise = jax.random.gumbel(key, logits.shape, logits.dtype)
    soft = jax.nn.softmax((logits + noise) / temperature)
    if not straight_through:
        return soft
    hard = jax.nn.one_hot(jnp.argmax(soft, axis=-1), soft.shape[-1], dtype=soft.dtype)
    return soft + jax.lax.stop_gradient(hard - soft)


def _conv(features: int, kernel: int, dtype: Any, name: str) -> nn.Conv:
    """Weights normal with variance 1 / fan-in, bias 0."""
    init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    return nn.Conv(features, (kernel, kernel), kernel_init=init, dtype=dtype, name=name)


class ResPath(nn.Module):
    """Four convolutions, each after a ReLU, through a quarter of the channels."""

    features: int
    kernels: tuple[int, int, int, int]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, h, w, c]` to `[b, h, w, features]`."""
        hidden = max(self.features // 4, 1)
        for index, kernel in enumerate(self.kernels):
            features = self.features if index == 3 else hidden
            x = _conv(features, kernel, self.dtype, f"conv_{index + 1}")(nn.relu(x))
        return x


class Block(nn.Module):
    """Residual block; the skip is a 1x1 convolution where the number of channels changes."""

    features: int
    kernels: tuple[int, int, int, int]
    gain: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, h, w, c]` to `[b, h, w, features]`."""
        path = ResPath(self.features, self.kernels, self.dtype, name="res_path")(x)
        if x.shape[-1] != self.features:
            x = _conv(self.features, 1, self.dtype, "id_path")(x)
        return x + self.gain * path


class Group(nn.Module):
    """Blocks of one resolution."""

    features: int
    blocks: int
    kernels: tuple[int, int, int, int]
    gain: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, h, w, c]` to `[b, h, w, features]`."""
        for index in range(self.blocks):
            x = Block(self.features, self.kernels, self.gain, self.dtype, name=f"block_{index + 1}")(x)
        return x


class Encoder(nn.Module):
    """Images to logits over the vocabulary; the resolution halves after every group but the last."""

    vocab: int
    hidden: int
    groups: int
    blocks: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, H, W, 3]` to `[b, g, g, v]` float32."""
        gain = 1.0 / (self.groups * self.blocks) ** 2
        x = _conv(self.hidden, 7, self.dtype, "input")(x.astype(self.dtype))
        for index in range(self.groups):
            features = self.hidden * 2**index
            x = Group(features, self.blocks, (3, 3, 3, 1), gain, self.dtype, name=f"group_{index + 1}")(x)
            if index + 1 < self.groups:
                x = nn.max_pool(x, (2, 2), (2, 2))
        return _conv(self.vocab, 1, jnp.float32, "output")(nn.relu(x).astype(jnp.float32))


class Decoder(nn.Module):
    """Codes to the parameters of the likelihood; the resolution doubles after every group but the last."""

    vocab: int
    hidden: int
    groups: int
    blocks: int
    first: int
    dtype: Any

    def setup(self):
        gain = 1.0 / (self.groups * self.blocks) ** 2
        self.input = _conv(self.first, 1, jnp.float32, None)
        for index in range(self.groups):
            features = self.hidden * 2 ** (self.groups - 1 - index)
            group = Group(features, self.blocks, (1, 3, 3, 3), gain, self.dtype)
            setattr(self, f"group_{index + 1}", group)
        self.output = _conv(6, 1, self.dtype, None)

    def __call__(self, z: jax.Array) -> jax.Array:
        """Distributions over codes `[b, g, g, v]` to `[b, H, W, 6]` float32."""
        return self._decode(self.input(z))

    def from_tokens(self, tokens: jax.Array) -> jax.Array:
        """Tokens int32 `[b, g, g]` to `[b, H, W, 6]`: the first product of a one-hot code is a look-up."""
        first = self.input.variables["params"]
        return self._decode(first["kernel"][0, 0][tokens] + first["bias"].reshape(1, 1, 1, -1))

    def _decode(self, x: jax.Array) -> jax.Array:
        x = x.astype(self.dtype)
        for index in range(self.groups):
            x = getattr(self, f"group_{index + 1}")(x)
            if index + 1 < self.groups:
                x = repeat(x, "b h w c -> b (h i) (w j) c", i=2, j=2)
        return self.output(nn.relu(x)).astype(jnp.float32)


class DiscreteVAE(nn.Module):
    """Encoder and decoder.

    Attributes:
      vocab: v.
      hidden: channels at full resolution; they double with every group.
      groups: resolutions; the stride is 2^(groups - 1).
      blocks_per_group: residual blocks of each.
      decoder_init: channels that the decoder starts from.
      dtype: of the body's convolutions; those at the codes are float32.
    """

    vocab: int = 8192
    hidden: int = 256
    groups: int = 4
    blocks_per_group: int = 2
    decoder_init: int = 128
    dtype: Any = jnp.float32

    def setup(self):
        sizes = self.vocab, self.hidden, self.groups, self.blocks_per_group
        self.encoder = Encoder(*sizes, self.dtype)
        self.decoder = Decoder(*sizes, self.decoder_init, self.dtype)

    def encode(self, images: jax.Array) -> jax.Array:
        """Images `[b, H, W, 3]` in [0.1, 0.9] to logits `[b, g, g, v]` float32.

        Raises:
          UserError: the image's sides are no multiples of the stride.
        """
        stride = 2 ** (self.groups - 1)
        if images.shape[1] % stride or images.shape[2] % stride:
            raise UserError(f"images of {images.shape[1]}x{images.shape[2]} are no multiples of the stride {stride}")
        return self.encoder(images)

    def tokens(self, images: jax.Array) -> jax.Array:
        """Images `[b, H, W, 3]` in [0.1, 0.9] to their likeliest tokens, int32 `[b, g, g]`."""
        return jnp.argmax(self.encode(images), axis=-1).astype(jnp.int32)

    def decode(self, z: jax.Array) -> jax.Array:
        """Distributions over codes `[b, g, g, v]` to `[b, H, W, 6]`."""
        return self.decoder(z)

    def decode_tokens(self, tokens: jax.Array) -> jax.Array:
        """Tokens int32 `[b, g, g]` to `[b, H, W, 6]`."""
        return self.decoder.from_tokens(tokens)

    def __call__(
        self, images: jax.Array, key: jax.Array, temperature: jax.Array | float, straight_through: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """The relaxed autoencoder: outputs `[b, H, W, 6]` and logits `[b, g, g, v]`."""
        logits = self.encode(images)
        return self.decode(gumbel_softmax(key, logits, temperature, straight_through)), logits
