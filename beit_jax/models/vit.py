"""The encoder of BEiT: a vision transformer with all the options of the official code.

Shapes: b images, n patches (row by row), d width, h heads, L layers. The layers are scanned: their parameters are
stacked on a first axis of size L under `blocks`, which keeps compile time independent of the depth.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.errors import UserError
from beit_jax.models import initializers
from beit_jax.models.attention import Attention
from beit_jax.models.constrain import batch_sharded
from beit_jax.models.relative_position import RelativePositionBias

MLP_RATIO = 4


def layer_norm(name: str | None = None) -> nn.LayerNorm:
    """In float32, epsilon 1e-6 as in the official code, variance computed the exact way."""
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=jnp.float32, name=name)


class Mlp(nn.Module):
    """Two products with an exact GELU between them; the official code has no dropout inside."""

    kernel_init: nn.initializers.Initializer
    out_init: nn.initializers.Initializer
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, n, d]` to `[b, n, d]`."""
        width = x.shape[-1]
        x = nn.Dense(MLP_RATIO * width, kernel_init=self.kernel_init, dtype=self.dtype, name="fc1")(x)
        x = nn.gelu(x, approximate=False)
        return nn.Dense(width, kernel_init=self.out_init, dtype=self.dtype, name="fc2")(x)


class Block(nn.Module):
    """Pre-norm block with LayerScale and stochastic depth (official `modeling_finetune.Block`).

    The residual stream is float32; the branches are `dtype`.
    """

    heads: int
    layer_scale: float
    scheme: initializers.Scheme
    grid: tuple[int, int] | None
    train: bool
    all_layers: bool
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, layer: jax.Array, drop_path: jax.Array, bias: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """
        Args:
          x: `[b, n + 1, d]` float32.
          layer: index from 0, scalar.
          drop_path: probability that a branch is left out for an image, scalar.
          bias: `[1, h, n + 1, n + 1]` or None.

        Returns:
          x, and x again where all layers are asked for.
        """
        init = initializers.weights(self.scheme)
        out_init = initializers.depth_rescaled(init, layer)
        attention = Attention(self.heads, init, out_init, self.grid, self.dtype, name="attn")
        mlp = Mlp(init, out_init, self.dtype, name="mlp")

        def add(x: jax.Array, branch: jax.Array, gamma: str) -> jax.Array:
            branch = branch.astype(jnp.float32)
            if self.layer_scale:
                scale = self.param(gamma, nn.initializers.constant(self.layer_scale), (x.shape[-1],), jnp.float32)
                branch = branch * jnp.broadcast_to(scale, branch.shape)
            if self.train:
                kept = jax.random.bernoulli(self.make_rng("drop_path"), 1.0 - drop_path, (x.shape[0], 1, 1))
                branch = jnp.where(kept, branch / (1.0 - drop_path), 0.0)
            return x + branch

        x = add(x, attention(layer_norm("norm1")(x).astype(self.dtype), bias), "gamma_1")
        x = add(x, mlp(layer_norm("norm2")(x).astype(self.dtype)), "gamma_2")
        x = batch_sharded(x)
        return x, x if self.all_layers else None


class Encoder(nn.Module):
    """Patches to tokens.

    Attributes:
      width: d.
      depth: L.
      heads: h.
      patch_size: side of a patch in pixels.
      absolute_positions: adds a learned position to every token, class token included.
      relative_position: "none", "shared" (one table for all blocks, as in pre-training) or "per_block" (fine-tuning).
      layer_scale: initial value of LayerScale; 0: none.
      drop_path: stochastic depth of the last block; block i of L has the share i / (L - 1) of it.
      mask_token: has a mask token.
      final_norm: ends in a layer norm; mean-pooled fine-tuning does not.
      init: scheme of `initializers`.
      remat: "none", "full" (recompute everything in the backward pass), or a name of `jax.checkpoint_policies`.
      unroll: how many layers of the scan are unrolled; changes speed, not numbers.
      dtype: of the matrix products.
    """

    width: int
    depth: int
    heads: int
    patch_size: int
    absolute_positions: bool = False
    relative_position: str = "none"
    layer_scale: float = 0.1
    drop_path: float = 0.0
    mask_token: bool = False
    final_norm: bool = True
    init_scheme: initializers.Scheme = "pretrain"
    remat: str = "none"
    unroll: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, mask: jax.Array | None = None, *, train: bool = False, all_layers: bool = False
    ) -> jax.Array:
        """
        Args:
          images: `[b, H, W, 3]`, normalised.
          mask: bool `[b, H / p, W / p]`; True: the mask token takes the patch's place.
          train: stochastic depth is on, and needs an rng `drop_path`.
          all_layers: return what every block puts out, without the final norm.

        Returns:
          float32 `[b, 1 + n, d]` with the class token first; for all layers `[L, b, 1 + n, d]`.

        Raises:
          UserError: the image's sides are no multiples of the patch.
        """
        x, grid = self._embed(images, mask)
        bias = None
        if self.relative_position == "shared":
            bias = RelativePositionBias(self.heads, grid, name="relative_position")()
        blocks = nn.scan(
            _remat(Block, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True, "drop_path": True},
            in_axes=(0, 0, nn.broadcast),
            length=self.depth,
            unroll=self.unroll,
        )(
            heads=self.heads,
            layer_scale=self.layer_scale,
            scheme=self.init_scheme,
            grid=grid if self.relative_position == "per_block" else None,
            train=train and self.drop_path > 0,
            all_layers=all_layers,
            dtype=self.dtype,
            name="blocks",
        )
        rates = jnp.linspace(0.0, self.drop_path, self.depth)
        x, layers = blocks(batch_sharded(x), jnp.arange(self.depth), rates, bias)
        if all_layers:
            return layers
        return layer_norm("norm")(x) if self.final_norm else x

    def _embed(self, images: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, tuple[int, int]]:
        """Tokens `[b, 1 + n, d]` float32 and the patch grid."""
        b, height, width, channels = images.shape
        p = self.patch_size
        if height % p or width % p:
            raise UserError(f"images of {height}x{width} do not divide into patches of {p}; choose multiples of {p}")
        grid = (height // p, width // p)
        init = initializers.weights(self.init_scheme)
        embed = nn.Conv(
            self.width,
            (p, p),
            (p, p),
            padding="VALID",
            dtype=self.dtype,
            name="patch_embed",
            **initializers.patches(self.init_scheme, p * p * channels),
        )
        x = rearrange(embed(images.astype(self.dtype)).astype(jnp.float32), "b h w d -> b (h w) d")

        def token(name: str, length: int = 1) -> jax.Array:
            values = self.param(name, init, (1, length, self.width), jnp.float32)
            return jnp.broadcast_to(values, (b, length, self.width))

        if self.mask_token:
            replacement = token("mask_token")
            if mask is not None:
                x = jnp.where(rearrange(mask, "b h w -> b (h w) 1"), jnp.broadcast_to(replacement, x.shape), x)
        x = jnp.concatenate([token("cls_token"), x], axis=1)
        if self.absolute_positions:
            x = x + token("pos_embed", x.shape[1])
        return x, grid


def _remat(block: type[nn.Module], policy: str) -> type[nn.Module]:
    """The block, recomputed in the backward pass as the policy says."""
    if policy == "none":
        return block
    if policy != "full" and not hasattr(jax.checkpoint_policies, policy):
        known = sorted(name for name in dir(jax.checkpoint_policies) if not name.startswith("_"))
        raise UserError(f"model.remat={policy!r}; expected none, full or a policy of JAX: {', '.join(known)}")
    return nn.remat(block, prevent_cse=False, policy=getattr(jax.checkpoint_policies, policy, None))
