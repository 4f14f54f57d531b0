"""The kinds of teachers (see `models.teacher`): towers of CLIP, ViTs of DINO, and encoders of this library."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.config import statistics
from beit_jax.models import vit
from beit_jax.models.clip_vision import ClipVision
from beit_jax.models.image_size import area
from beit_jax.models.pixel_statistics import CLIP, STATISTICS
from beit_jax.models.teacher import Teacher
from beit_jax.tasks.encoder import encoder_fields, encoder_flops, layer_outputs
from beit_jax.typing import Params


def create_teacher(section: ConfigDict, dtype: jnp.dtype = jnp.float32, channels: int = 3) -> Teacher:
    """The teacher of a config's section, which is complete, for images of so many channels.

    `dtype` is of the matrix products.
    """
    kind = _KINDS[section.kind]
    pair = statistics.parse(section.statistics, channels) if section.statistics else kind.own_statistics
    return kind(section, statistics.spread(pair, channels), jnp.dtype(dtype), channels)


class ClipTeacher(Teacher):
    """BEiT v2's own teacher: the last tokens of a CLIP, normed and projected into the space of its texts."""

    own_statistics = CLIP
    own_norm_eps = 1e-5

    @property
    def width(self) -> int:
        """See `Teacher.width`."""
        return self.section.projection or self.variant.width

    @property
    def ignored(self) -> tuple[str, ...]:
        """See `Teacher.ignored`."""
        return super().ignored + (() if self.section.projection else (r"^encoder/projection/",))

    @functools.cached_property
    def network(self) -> ClipVision:
        """See `Teacher.network`."""
        return ClipVision(
            **dataclasses.asdict(self.variant),
            patch_size=self.patch_size,
            projection=self.section.projection,
            quick_gelu=self.section.gelu != "exact",
            norm_eps=self.norm_eps,
            dtype=self.dtype,
        )

    def encode(self, params: Params, images: jax.Array) -> jax.Array:
        """See `Teacher.encode`."""
        return self.network.apply({"params": params["encoder"]}, images)

    def flops(self) -> int:
        """See `Teacher.flops`."""
        projection = 2 * area(self.grid) * self.variant.width * self.section.projection
        return encoder_flops(self.section, self.channels, backward=False) + projection


class EncoderTeacher(Teacher):
    """An encoder of this library: the patches after one of its blocks, or after the last block and the final norm."""

    own_statistics = STATISTICS["inception"]
    own_norm_eps = 1e-6

    @property
    def ignored(self) -> tuple[str, ...]:
        """See `Teacher.ignored`: the mask token; the final norm, where an earlier layer is taken."""
        norm = (r"^encoder/norm/",) if self.section.layer else ()
        return (*super().ignored, r"^encoder/mask_token$", *norm)

    @functools.cached_property
    def network(self) -> vit.Encoder:
        """See `Teacher.network`: all blocks, whose parameters a checkpoint holds."""
        return self._encoder()

    def encode(self, params: Params, images: jax.Array) -> jax.Array:
        """See `Teacher.encode`: only the blocks up to the layer are computed."""
        if not self.section.layer:
            return self.network.apply({"params": params["encoder"]}, images)[:, 1:]
        return layer_outputs(self.network, params["encoder"], images, (self.section.layer,))[0, :, 1:]

    def flops(self) -> int:
        """See `Teacher.flops`."""
        return encoder_flops(self.section, self.channels, backward=False, depth=self.section.layer)

    def _encoder(self) -> vit.Encoder:
        section = {**self.section, "norm_eps": self.norm_eps, "dtype": self.dtype.name}
        section |= dict(drop_path=0.0, remat="none", unroll=0, attention="auto")
        return vit.Encoder(
            **encoder_fields(ConfigDict(section)), init_scheme="finetune", final_norm=not self.section.layer
        )


class DinoTeacher(EncoderTeacher):
    """A ViT of DINO (Caron et al. 2021): an encoder with absolute positions and without LayerScale.

    `Attention` has no bias of keys, which DINO's has: the softmax cancels it.
    """

    own_statistics = STATISTICS["imagenet"]

    def _encoder(self) -> vit.Encoder:
        return super()._encoder().clone(absolute_positions=True, relative_position="none", layer_scale=0.0)


_KINDS: dict[str, type[Teacher]] = {"clip": ClipTeacher, "dino": DinoTeacher, "encoder": EncoderTeacher}
