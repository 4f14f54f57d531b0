"""The vision transformer of BEiT (BEiT paper, sections 2.2 and 2.5; official `modeling_{pretrain,finetune}.py`)."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.errors import UserError
from beit_jax.models.block import Block
from beit_jax.models.constrain import batch_sharded
from beit_jax.models.initializers import Scheme, initializers
from beit_jax.models.layer_norm import LayerNorm
from beit_jax.models.patch_embed import PatchEmbed, patch_grid
from beit_jax.models.relative_position import RelativePositionBias
from beit_jax.models.stack import layers, stacked


class Encoder(nn.Module):
    """Runs a class token and the patches through transformer blocks; the mask token takes the place of masked patches.

    Parameters are float32. Those of all blocks are stacked along a leading axis under `blocks`.

    Attributes:
      width: d, the numbers in a token.
      depth: number of blocks L.
      heads: number of attention heads h, which divides d.
      patch_size: side of a patch in pixels.
      mlp_ratio: hidden width of the MLPs in units of d.
      absolute_positions: whether a learned embedding is added to the tokens (`--abs_pos_emb`).
      relative_position: bias by relative position: none, one for all blocks (official pre-training), or one per block.
      grid: rows and columns of patches that the positions are for; None: a square.
      layer_scale: initial LayerScale (`--layer_scale_init_value`); 0 for none.
      drop_path: rate of stochastic depth in the last block, rising linearly from 0 in the first.
      norm_eps: epsilon of the layer norms: 1e-6 in the official code, 1e-12 in checkpoints of Hugging Face.
      mask_token: whether there is a token that takes the place of masked patches.
      final_norm: whether the result passes a layer norm.
      init_scheme: see `initializers`.
      remat, unroll: see `stacked`.
      attention: what computes attention, one of `variants.ATTENTIONS`.
      dtype: of the matrix products; tokens between blocks, norms, softmax and LayerScale are float32.
    """

    width: int
    depth: int
    heads: int
    patch_size: int
    mlp_ratio: int = 4
    absolute_positions: bool = False
    relative_position: Literal["none", "shared", "per_block"] = "none"
    grid: tuple[int, int] | None = None
    layer_scale: float = 0.1
    drop_path: float = 0.0
    norm_eps: float = 1e-6
    mask_token: bool = False
    final_norm: bool = True
    init_scheme: Scheme = "pretrain"
    remat: str = "none"
    unroll: int = 1
    attention: str = "plain"
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """The final norm, which patch aggregation applies once more."""
        self.norm = LayerNorm(self.norm_eps)

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool = False,
        all_layers: bool = False,
        keep: int = 0,
    ) -> jax.Array | tuple[jax.Array, jax.Array, jax.Array | None]:
        """Encodes images.

        Args:
          images: `[b, H, W, c]`, normalised; a grid of gh = H / patch_size by gw patches, n in all.
          mask: bool `[b, gh, gw]`, true where the mask token replaces a patch; None replaces no patch.
          train: whether stochastic depth is on, which needs the rng `drop_path` if the rate is not 0.
          all_layers: whether to return the output of every block, without the final norm.
          keep: l, counted from 1, to return the outputs of blocks L and l, without the final norm, and the bias.

        Returns:
          float32 `[b, n+1, d]`, the class token first and patches row-major; `[L, b, n+1, d]` with `all_layers`.
          With `keep` two `[b, n+1, d]`, and the attention bias that blocks share or None.
        """
        grid = patch_grid(images.shape[1:3], self.patch_size)
        init = initializers(self.init_scheme, self.patch_size, images.shape[-1])
        x = PatchEmbed(self.width, self.patch_size, init.patch_kernel, init.patch_bias, self.dtype, name="patch_embed")(
            images
        ).astype(jnp.float32)
        batch, patches, width = x.shape

        if self.mask_token:
            mask_token = self.param("mask_token", init.weight, (1, 1, width), jnp.float32)
        if mask is not None:
            self._check_mask(mask, (batch, *grid))
            x = jnp.where(rearrange(mask, "b gh gw -> b (gh gw) 1"), mask_token, x)
        cls_token = self.param("cls_token", init.weight, (1, 1, width), jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(cls_token, (batch, 1, width)), x], axis=1)

        if self.absolute_positions:
            x = x + self.param("pos_embed", init.weight, (1, patches + 1, width), jnp.float32)
        shared = self.relative_position == "shared"
        bias = RelativePositionBias(self.heads, grid, name="relative_position")(batch) if shared else None

        fields = self.block_fields(grid, train) | dict(collect=all_layers, kernel_init=init.weight, name="blocks")
        blocks = stacked(Block, self.depth, self.remat, self.unroll, keep)(**fields)
        x = batch_sharded(x)
        x, outputs = blocks((x, x) if keep else x, layers(self.depth, self.drop_path), bias)
        if keep or all_layers:
            return (*x, bias) if keep else outputs
        return self.norm(x) if self.final_norm else x

    def block_fields(self, grid: tuple[int, int], train: bool) -> dict[str, Any]:
        """The fields of a `Block` that follow from those of the encoder."""
        names = ("heads", "mlp_ratio", "layer_scale", "norm_eps", "attention", "dtype")
        own_grid, drops = grid if self.relative_position == "per_block" else None, train and self.drop_path > 0
        return {name: getattr(self, name) for name in names} | dict(grid=own_grid, stochastic_depth=drops)

    def _check_mask(self, mask: jax.Array, expected: tuple[int, ...]) -> None:
        if not self.mask_token:
            raise ValueError("found a mask, but the encoder has no mask token: build it with mask_token=True")
        if mask.shape != expected:
            raise UserError(
                f"found masks of shape {mask.shape}, expected {expected}: one value for each patch of "
                f"{self.patch_size}x{self.patch_size} pixels; make the masks' grid that of the images"
            )
