"""What pre-trainings with masked patches share, whatever they predict (BEiT paper, section 2.3).

The encoder sees patches of which some are replaced by the mask token, and a head predicts something for each masked
patch. Masks hide different numbers of patches. To keep shapes static, the head runs at K (`num_masked`) positions of
every image: first the masked patches, then visible ones, of weight 0. So the loss is the mean over all masked patches.
The head costs K/n of its cost at all n patches. With `loss_on="all"`, K is n and all weights are 1.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.config.encoder import image_shape, patch_grid
from beit_jax.config.pretrain import num_masked
from beit_jax.errors import UserError
from beit_jax.models import heads, variants, vit
from beit_jax.tasks.encoder import LearnedEncoder, encoder_fields, encoder_flops
from beit_jax.tasks.task import spec
from beit_jax.typing import Batch, HostBatch, Metrics, Params, Spec


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedModelling(LearnedEncoder):
    """See `Task`; batches hold `image` `[b, h, w, c]` normalised and `mask` bool `[b, gh, gw]`, true where hidden.

    Subclasses say what is predicted: `outputs`, `loss`, `measure` and `pictures`.
    """

    @property
    def outputs(self) -> int:
        """Numbers that the head gives for each patch, v."""
        raise NotImplementedError

    @functools.cached_property
    def model(self) -> heads.MaskedImageModel:
        """See `Task.model`."""
        encoder = vit.Encoder(**encoder_fields(self.config.model), mask_token=True, init_scheme="pretrain")
        return heads.MaskedImageModel(encoder=encoder, vocab=self.outputs)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid(self.config.model)

    @property
    def on_all(self) -> bool:
        """Whether the loss counts visible patches too."""
        return self.config.loss_on == "all"

    def init(self, key: jax.Array) -> Params:
        """See `Task.init`."""
        image, mask = jnp.zeros((1, *image_shape(self.config)), jnp.float32), jnp.zeros((1, *self.grid), bool)
        return self.model.init(key, image, mask, jnp.zeros((1, 1), jnp.int32))["params"]

    def train_spec(self, b: int) -> Spec:
        """See `Task.train_spec`."""
        return {"image": spec("float32", b, *image_shape(self.config)), "mask": spec("bool", b, *self.grid)}

    def check_batch(self, batch: HostBatch) -> None:
        """See `Task.check_batch`: every mask hides 1 to `num_masked` patches; with `on_all` it may hide none."""
        counts, limit = batch["mask"].sum(axis=(1, 2)), num_masked(self.config)
        if counts.max() > limit or not (self.on_all or counts.all()):
            raise UserError(
                f"found masks of {counts.min()} to {counts.max()} patches, expected 1 to num_masked={limit}: make "
                "num_masked and the mask in data.ops agree"
            )

    def predict(self, params: Params, batch: Batch, key: jax.Array | None = None) -> tuple[Any, jax.Array, jax.Array]:
        """The predictions of the head at K positions, the masked ones first.

        Args:
          params: that are learned.
          batch: with `image` and `mask`.
          key: of stochastic depth; None turns it off.

        Returns:
          predictions as of the model's `scored`; positions int32 `[b, k]`; float32 `[b, k]`, 1 where masked, else 0.
        """
        positions, masked = masked_first(batch["mask"], num_masked(self.config))
        inputs, rngs = (batch["image"], batch["mask"], positions), {} if key is None else {"drop_path": key}
        predicted = self.model.apply({"params": params}, *inputs, train=key is not None, rngs=rngs, method="scored")
        return predicted, positions, masked

    def loss_weights(self, masked: jax.Array) -> jax.Array:
        """Weights of positions in the loss, `[b, k]`."""
        return jnp.ones_like(masked) if self.on_all else masked

    def mask_metrics(self, masked: jax.Array) -> Metrics:
        """The mean number of masked patches of an image, from `masked` `[b, k]` of `predict`."""
        return {"masked_per_image": (jnp.sum(masked), jnp.float32(masked.shape[0]))}

    def overflow(self, batch: Batch) -> jax.Array:
        """The number of masked patches that the head leaves out; 0 is right."""
        masked = jnp.sum(batch["mask"], axis=(1, 2), dtype=jnp.float32)
        return jnp.sum(jnp.maximum(masked - num_masked(self.config), 0.0) * batch["valid"].astype(jnp.float32))

    def training_flops(self) -> int:
        """See `Task.training_flops`; the tokenizer, if there is one, is not counted here."""
        variant, _ = variants.parse(self.config.model.variant)
        head = 2 * num_masked(self.config) * variant.width * self.outputs
        return encoder_flops(self.config.model, self.config.data.channels) + 3 * head


def masked_first(mask: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Row-major positions of `k` patches: the masked ones, then visible ones until there are `k`.

    Args:
      mask: bool `[b, gh, gw]`.
      k: number of positions; masked patches beyond it are left out, which `measure` reports as `overflow`.

    Returns:
      positions int32 `[b, k]` (the first are the masked ones, in order) and weights float32 `[b, k]` of 0 and 1.
    """
    flat = rearrange(mask, "b h w -> b (h w)")
    positions = jnp.argsort(~flat, axis=1, stable=True)[:, :k].astype(jnp.int32)
    return positions, jnp.take_along_axis(flat, positions, axis=1).astype(jnp.float32)
