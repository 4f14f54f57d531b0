"""A tokenizer of one's own: a codebook of patches, the nearest of which is the token."""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.config import Key
from beit_jax.models.tokenizer import Tokenizer
from beit_jax.tasks import register_tokenizer

KEYS = dict(
    vocab=Key(64, "number of patches in the codebook", at_least=2),
    patch=Key(4, "side of a patch in pixels", at_least=1),
)


@register_tokenizer("patches", keys=KEYS, loss_keys=dict(spread=Key(0.5, "of the first patches", above=0)))
@dataclasses.dataclass(frozen=True, eq=False)
class Patches(Tokenizer):
    """Images lie in [0, 1]."""

    can_decode = True

    @staticmethod
    def stride(section):
        return section.patch

    def init(self, key):
        spread = self.settings.spread if self.settings else 1.0
        shape = (self.vocab, self.section.patch**2 * 3)
        return {"codebook": 0.5 + spread * (jax.random.uniform(key, shape) - 0.5)}

    def targets(self, params, images, positions=None):
        tokens = jnp.argmin(self.distances(params, images), axis=-1).astype(jnp.int32)
        if positions is None:
            return tokens
        return jnp.take_along_axis(rearrange(tokens, "b h w -> b (h w)"), positions, axis=1)

    def distances(self, params, images):
        """`[b, g, g, v]`."""
        p = self.section.patch
        patches = rearrange(images, "b (h p) (w q) c -> b h w 1 (p q c)", p=p, q=p)
        return jnp.mean((patches - params["codebook"][None, None, None]) ** 2, axis=-1)

    def decode(self, params, tokens):
        p = self.section.patch
        return rearrange(params["codebook"][tokens], "b h w (p q c) -> b (h p) (w q) c", p=p, q=p, c=3).clip(0.0, 1.0)

    def loss(self, params, teacher, images, key, step):
        nearest = jnp.min(self.distances(params, images), axis=-1)
        return {"loss": (jnp.sum(nearest), jnp.float32(nearest.size))}, {}
