"""The pre-training model of BEiT v2 (arXiv 2208.06366, section 2.3; official `beit2/modeling_pretrain.py`).

The class token of the last block and the patches of an earlier one pass a few more blocks, from which the head predicts
the visual tokens a second time. Early patches know little of the image as a whole: what the prediction needs of it, the
class token must bring. Fine-tuning drops the additional blocks.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from beit_jax.models.block import Block
from beit_jax.models.constrain import batch_sharded
from beit_jax.models.heads import MaskedImageModel, patches_at
from beit_jax.models.initializers import symmetric_uniform
from beit_jax.models.layer_norm import LayerNorm
from beit_jax.models.patch_embed import patch_grid
from beit_jax.models.stack import layers, stacked
from beit_jax.typing import Params

# PyTorch's default for the kernel of a linear layer: uniform on +-1 / sqrt(inputs).
LINEAR_KERNEL = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
BRANCH = "aggregation_"  # with which the names of its parameters begin


class PatchAggregationModel(MaskedImageModel):
    """Predicts the visual tokens of patches twice: after the last block, and after the additional ones.

    Attributes (others as in `MaskedImageModel`):
      early_layer: the block, counted from 1, whose patches the additional blocks get: 9 of 12, 21 of 24.
      head_layers: number of additional blocks. They continue the encoder's at `early_layer`, also in their rates of
        stochastic depth, and add the same bias of attention.
      shared_head: whether both predictions pass the same norm and the same head.
    """

    early_layer: int = 9
    head_layers: int = 2
    shared_head: bool = True

    def __call__(
        self, images: jax.Array, mask: jax.Array | None, positions: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """The first of the predictions of `scored`, float32 `[b, k, v]`."""
        return self.scored(images, mask, positions, train=train)[0]

    @nn.compact
    def scored(
        self, images: jax.Array, mask: jax.Array | None, positions: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Logits after the last block and after the additional ones, float32 `[b, k, v]` each.

        Args: see `MaskedImageModel.__call__`.
        """
        last, early, bias = self.encoder(images, mask, train=train, keep=self.early_layer)
        tokens = jnp.concatenate([last[:, :1], early[:, 1:]], axis=1)
        branch = self._additional_blocks(tokens, bias, patch_grid(images.shape[1:3], self.encoder.patch_size), train)
        norm = branch_norm = self.encoder.norm
        head = branch_head = self.head("lm_head")
        if not self.shared_head:
            branch_norm = LayerNorm(self.encoder.norm_eps, name=f"{BRANCH}norm")
            branch_head = self.head(f"{BRANCH}lm_head")
        return head(norm(patches_at(last, positions))), branch_head(branch_norm(patches_at(branch, positions)))

    def _additional_blocks(
        self, tokens: jax.Array, bias: jax.Array | None, grid: tuple[int, int], train: bool
    ) -> jax.Array:
        """`[b, n+1, d]` -> `[b, n+1, d]`."""
        encoder, name, end = self.encoder, f"{BRANCH}blocks", self.early_layer + self.head_layers
        fields = encoder.block_fields(grid, train) | dict(collect=False, kernel_init=LINEAR_KERNEL, name=name)
        blocks = stacked(Block, self.head_layers, encoder.remat, encoder.unroll)(**fields)
        every = layers(max(encoder.depth, end), encoder.drop_path)
        x, _ = blocks(batch_sharded(tokens), jax.tree.map(lambda each: each[self.early_layer : end], every), bias)
        if self.is_initializing():
            drawn = with_linear_biases(self.get_variable("params", name), self.make_rng("params"))
            self.put_variable("params", name, drawn)
        return x


def with_linear_biases(blocks: Params, key: jax.Array) -> Params:
    """Parameters of stacked blocks whose linear layers have PyTorch's default biases, and not zero.

    The official code creates the additional blocks after it has initialised the others, and leaves them so.
    """

    def draw(key: jax.Array, layer: Params) -> Params:
        bound = 1.0 / math.sqrt(layer["kernel"].shape[-2])
        return {**layer, "bias": symmetric_uniform(bound)(key, layer["bias"].shape)}

    first, second, third = jax.random.split(key, 3)
    mlp, attention = blocks["mlp"], blocks["attn"]
    return {
        **blocks,
        "attn": {**attention, "proj": draw(first, attention["proj"])},
        "mlp": {"fc1": draw(second, mlp["fc1"]), "fc2": draw(third, mlp["fc2"])},
    }
