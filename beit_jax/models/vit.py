"""The vision transformer of BEiT (BEiT paper, sections 2.2 and 2.5; official `modeling_{pretrain,finetune}.py`)."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.errors import UserError
from beit_jax.models.block import Block, layer_norm, layers
from beit_jax.models.constrain import batch_sharded
from beit_jax.models.initializers import Scheme, initializers
from beit_jax.models.patch_embed import PatchEmbed, patch_grid
from beit_jax.models.relative_position import RelativePositionBias
from beit_jax.models.variants import REMAT_POLICIES


class Encoder(nn.Module):
    """Patches (some replaced by the mask token) and a class token, through a stack of transformer blocks.

    The parameters of all blocks are stacked along a leading axis under `blocks`, one layout whatever `remat` and
    `unroll` are. Parameters are float32.

    Attributes:
      width: d.
      depth: number of blocks L.
      heads: number of attention heads h, which divides d.
      patch_size: side of a patch in pixels.
      mlp_ratio: hidden width of the MLPs in units of d.
      absolute_positions: whether a learned embedding is added to the tokens (`--abs_pos_emb`).
      relative_position: no bias of attention by relative position, one table for all blocks (the official pre-training)
        or one per block (the official fine-tuning).
      layer_scale: initial LayerScale (`--layer_scale_init_value`); 0 for none.
      drop_path: rate of stochastic depth in the last block, rising linearly from 0 in the first.
      norm_eps: of the layer norms; the official 1e-6, while transformers' files ask for 1e-12.
      mask_token: whether there is a token that takes the place of masked patches.
      final_norm: whether the result passes a layer norm.
      init_scheme: see `initializers`.
      remat: what the backward pass computes again: "none", "full" (each block, from its input), or what one of
        REMAT_POLICIES does not save.
      unroll: how many blocks the compiler sees at a time; more of them may run faster and take longer to compile.
      dtype: of the matrix products; tokens between blocks, norms, softmax and LayerScale are float32.
    """

    width: int
    depth: int
    heads: int
    patch_size: int
    mlp_ratio: int = 4
    absolute_positions: bool = False
    relative_position: Literal["none", "shared", "per_block"] = "none"
    layer_scale: float = 0.1
    drop_path: float = 0.0
    norm_eps: float = 1e-6
    mask_token: bool = False
    final_norm: bool = True
    init_scheme: Scheme = "pretrain"
    remat: str = "none"
    unroll: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool = False,
        all_layers: bool = False,
    ) -> jax.Array:
        """Encodes images.

        Args:
          images: `[b, H, W, 3]`, normalised; a grid of gh = H / patch_size by gw patches, n in all.
          mask: bool `[b, gh, gw]`, true where the mask token replaces a patch; None to see everything.
          train: whether stochastic depth is on, which needs the rng `drop_path` if the rate is not 0.
          all_layers: whether to return the output of every block, without the final norm.

        Returns:
          float32 `[b, n+1, d]`, the class token first and patches row-major; `[L, b, n+1, d]` with `all_layers`.
        """
        grid = patch_grid(images.shape[1:3], self.patch_size)
        x = batch_sharded(self._tokens(images, mask, grid))
        bias = None
        if self.relative_position == "shared":
            bias = RelativePositionBias(self.heads, grid, name="relative_position")(x.shape[0])
        x, outputs = self._blocks(grid, train=train, collect=all_layers)(x, layers(self.depth, self.drop_path), bias)
        if all_layers:
            return outputs
        return layer_norm("norm", self.norm_eps)(x) if self.final_norm else x

    def _tokens(self, images: jax.Array, mask: jax.Array | None, grid: tuple[int, int]) -> jax.Array:
        """The input of the first block, float32 `[b, n+1, d]`."""
        init = initializers(self.init_scheme, self.patch_size)
        embed = PatchEmbed(
            self.width, self.patch_size, init.patch_kernel, init.patch_bias, self.dtype, name="patch_embed"
        )
        x = embed(images).astype(jnp.float32)
        batch, patches, width = x.shape
        if self.mask_token:
            token = self.param("mask_token", init.weight, (1, 1, width), jnp.float32)
        if mask is not None:
            if not self.mask_token:
                raise ValueError("found a mask, but the encoder has no mask token: build it with mask_token=True")
            if mask.shape != (batch, *grid):
                raise UserError(
                    f"found masks of shape {mask.shape}, expected {(batch, *grid)}: one value for each patch of "
                    f"{self.patch_size}x{self.patch_size} pixels; make the masks' grid that of the images"
                )
            x = jnp.where(rearrange(mask, "b gh gw -> b (gh gw) 1"), token, x)
        cls = self.param("cls_token", init.weight, (1, 1, width), jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(cls, (batch, 1, width)), x], axis=1)
        if self.absolute_positions:
            x = x + self.param("pos_embed", init.weight, (1, patches + 1, width), jnp.float32)
        return x

    def _blocks(self, grid: tuple[int, int], *, train: bool, collect: bool) -> nn.Module:
        """The stack, a scan over `Block`."""
        scanned = nn.scan(
            _rematerialised(Block, self.remat, self.unroll),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "drop_path": True},
            in_axes=(0, nn.broadcast),
            length=self.depth,
            unroll=self.unroll,
        )
        return scanned(
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            grid=grid if self.relative_position == "per_block" else None,
            layer_scale=self.layer_scale,
            stochastic_depth=train and self.drop_path > 0,
            collect=collect,
            norm_eps=self.norm_eps,
            kernel_init=initializers(self.init_scheme, self.patch_size).weight,
            dtype=self.dtype,
            name="blocks",
        )


def _rematerialised(block: type[Block], remat: str, unroll: int) -> type[Block]:
    if remat == "none":
        return block
    if remat != "full" and remat not in REMAT_POLICIES:
        raise UserError(f"found remat={remat!r}, expected one of none, full, {', '.join(REMAT_POLICIES)}")
    policy = None if remat == "full" else getattr(jax.checkpoint_policies, remat)
    # The border of a loop's body keeps XLA from merging the second computation with the first; within the body, where
    # unrolling puts several blocks, it has to be told.
    return nn.remat(block, prevent_cse=unroll > 1, policy=policy)
