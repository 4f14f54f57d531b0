"""The interface of a tokenizer: what pre-training calls, and what the task `tokenizer` calls to train one.

A kind of tokenizer is one subclass. Only its own file and its keys know its sizes.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.errors import UserError
from beit_jax.models.image_size import ImageSize, grid_of, sides
from beit_jax.models.teacher import Teacher
from beit_jax.typing import Metrics, Params


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Turns an image into a grid of tokens.

    Attributes:
      section: of the config, with `kind` and the keys of that kind: the section `model` of a config of the task
        `tokenizer`, or the section `tokenizer` of a config of the task `pretrain`.
      image_size: side in pixels of the images that it sees, or their height and width.
      dtype: of the computation; a kind may ignore it.
      settings: the section `loss` of the config, with the kind's keys for training; None if it is not trained.
      teacher: a frozen network whose features training predicts, for kinds that learn from one.
      channels: of the images, c.

    Examples:
      >>> from beit_jax.config import defaults
      >>> from beit_jax.models.tokenizer import Tokenizer
      >>> class Bright(Tokenizer):  # token 1 stands for 4x4 pixels that are bright
      ...     vocab = 2
      ...
      ...     @staticmethod
      ...     def stride(section):
      ...         return 4
      ...
      ...     def targets(self, params, images, positions=None):
      ...         patches = images.reshape(len(images), self.grid[0], 4, self.grid[1], 4, self.channels)
      ...         tokens = (patches.mean((2, 4, 5)) > 0.5).astype(jnp.int32)
      ...         if positions is None:
      ...             return tokens
      ...         return jnp.take_along_axis(tokens.reshape(len(images), -1), positions, axis=1)
      >>> tokenizer = Bright(defaults("pretrain").tokenizer, image_size=16)
      >>> tokenizer.targets({}, tokenizer.zeros()).shape, tokenizer.grid
      ((1, 4, 4), (4, 4))
    """

    section: ConfigDict
    image_size: ImageSize
    dtype: jnp.dtype = jnp.float32
    settings: ConfigDict | None = None
    teacher: Teacher | None = None
    channels: int = 3

    can_decode: ClassVar[bool] = False  # whether `decode` exists
    has_likelihood: ClassVar[bool] = False  # whether `posterior` and `log_likelihood` exist
    against_collapse: ClassVar[str] = ""  # what to change if hardly any token is used
    loss_unit: ClassVar[str] = ""  # of the curve in a report
    metrics: ClassVar[Mapping[str, str]] = MappingProxyType({})  # what its own metrics are, for a report

    @staticmethod
    def stride(section: ConfigDict) -> int:
        """Pixels along the side of the square that a token stands for."""
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens, gh and gw."""
        return grid_of(self.image_size, self.stride(self.section))

    def zeros(self) -> jax.Array:
        """An image `[1, h, w, c]`, from which Flax infers shapes."""
        return jnp.zeros((1, *sides(self.image_size), self.channels), jnp.float32)

    @property
    def vocab(self) -> int:
        """Number of tokens, v."""
        return self.section.vocab

    @property
    def model(self) -> nn.Module:
        """The network, for conversion and for pictures of tokens.

        Raises:
          UserError: this kind is no Flax module.
        """
        raise UserError(
            f"a tokenizer of the kind {self.section.kind!r} has no network to convert or to look into; expected a kind "
            "such as vqkd, or, of your own, one that defines `model`"
        )

    # For pre-training: the tokenizer is frozen.

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters."""
        raise NotImplementedError

    def targets(self, params: Params, images: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        """The tokens of images.

        Args:
          params: of the tokenizer.
          images: `[b, h, w, c]` in the tokenizer's own range, see `from_pixels`.
          positions: int32 `[b, k]`, row-major indices of the tokens that are needed; None for all.

        Returns:
          int32 `[b, gh, gw]`, or `[b, k]` with `positions`.
        """
        raise NotImplementedError

    def encoder_params(self, params: Params) -> Params:
        """The parameters on which the targets depend."""
        return params

    def from_pixels(self, pixels: jax.Array) -> jax.Array:
        """Pixels in [0, 1] -> the tokenizer's own range. `data.ops` must do the same with `tokenizer_image`."""
        return pixels

    def to_pixels(self, images: jax.Array) -> jax.Array:
        """The inverse of `from_pixels`, clipped to [0, 1]."""
        return jnp.clip(images, 0.0, 1.0)

    def decode(self, params: Params, tokens: jax.Array) -> jax.Array:
        """Tokens int32 `[b, gh, gw]` of any grid -> pixels `[b, h, w, c]` in [0, 1]; exists where `can_decode`."""
        raise NotImplementedError

    def target_flops(self) -> int | None:
        """FLOPs of `targets` for an image, counting matrix products; None: not counted."""
        return None

    # For the evidence lower bound (`tasks.elbo`), where `has_likelihood`.

    def posterior(self, params: Params, images: jax.Array) -> jax.Array:
        """Logits float32 `[b, gh, gw, v]` of q(z | x)."""
        raise NotImplementedError

    def log_likelihood(self, params: Params, images: jax.Array, tokens: jax.Array) -> jax.Array:
        """log p(x | z) in nats, float32 `[b]`, of images `[b, h, w, c]` given tokens int32 `[b, gh, gw]`."""
        raise NotImplementedError

    # For the task `tokenizer`.

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """Regular expressions of parameters that have no gradient, see `Task.without_gradient`."""
        return ()

    def loss(
        self, params: Params, teacher: Params, images: jax.Array, key: jax.Array, step: jax.Array
    ) -> tuple[Metrics, Params]:
        """Metrics, of which the step minimises `loss`, and new values of parameters that `without_gradient` names.

        Args:
          params: of the tokenizer.
          teacher: parameters of the teacher; {} without one.
          images: `[b, h, w, c]` in the tokenizer's own range.
          key: of the step.
          step: int32, counted from 0.

        Raises:
          UserError: this kind is not trained here.
        """
        raise UserError(f"the tokenizer {self.section.kind!r} defines no loss; expected a kind that can be trained")

    def measure(self, params: Params, teacher: Params, images: jax.Array, valid: jax.Array) -> dict[str, Any]:
        """Sums over the images that are `valid`, float32 `[b]` of 0 and 1, for `summarize`."""
        tokens = jax.nn.one_hot(self.targets(params, images), self.vocab).sum(axis=(1, 2))
        return {"codes": jnp.einsum("b,bv->v", valid, tokens)}

    def pictures(self, params: Params, images: jax.Array) -> dict[str, jax.Array]:
        """Pictures `[b, h, w, c]` in [0, 1] by name, aligned by row."""
        pictures = {"original": self.to_pixels(images)}
        if self.can_decode:
            pictures["reconstruction"] = self.decode(params, self.targets(params, images))
        return pictures

    def training_flops(self) -> int | None:
        """FLOPs of a training step for an image; None: not counted."""
        return None


def kl_to_uniform(logits: jax.Array) -> jax.Array:
    """KL(softmax(logits) || uniform) in nats.

    Args:
      logits: `[..., v]`.

    Returns:
      `[...]`.
    """
    log_q = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_q) * log_q, axis=-1) + jnp.log(float(logits.shape[-1]))
