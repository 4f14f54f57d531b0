"""Masked image modelling on pixels: the paper's ablation of visual tokens (section 3.3, table 4).

The model predicts the pixels of masked patches, normalised as the encoder sees them; there is no tokenizer. The paper
calls this "a pixel regression problem" and gives neither loss nor normalisation. Here it is the squared error, mean
over the p * p * c values of a patch and over the patches that count: SimMIM and MAE regress masked patches so, the
latter after standardising each patch by itself, which is not done here.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from einops import repeat

from beit_jax.models import variants
from beit_jax.models.patch_pixels import to_images, to_patches
from beit_jax.tasks.masked_modelling import MaskedModelling
from beit_jax.tasks.pretrain_report import hide_patches
from beit_jax.tasks.report import Curve, Headline, Report
from beit_jax.tasks.task import means
from beit_jax.typing import Batch, Metrics, Params


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainPixels(MaskedModelling):
    """See `MaskedModelling`."""

    @property
    def outputs(self) -> int:
        """See `MaskedModelling.outputs`: the values of a patch."""
        return self.config.data.channels * variants.parse(self.config.model.variant)[1] ** 2

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Metrics, Params]:
        """See `Task.loss`."""
        predicted, positions, masked = self.predict(params, batch, key)
        error = self._squared_error(predicted, batch, positions, self.loss_weights(masked))
        return {"loss": error} | self.mask_metrics(masked), {}

    def measure(self, params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        """See `Task.measure`."""
        predicted, positions, masked = self.predict(params, batch)
        weights = self.loss_weights(masked) * batch["valid"].astype(jnp.float32)[:, None]
        return {
            "loss": self._squared_error(predicted, batch, positions, weights),
            "overflow": self.overflow(batch),
        }

    def summarize(self, sums: dict[str, Any]) -> dict[str, float]:
        """See `Task.summarize`."""
        overflow = float(sums.pop("overflow"))
        return means(sums) | {"overflow": overflow}

    def _squared_error(
        self, predicted: jax.Array, batch: Batch, positions: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Sum and count over patches of weight, of predictions `[b, k, p * p * c]`."""
        true = jnp.take_along_axis(to_patches(batch["image"], self.grid), positions[..., None], axis=1)
        errors = jnp.mean((predicted - true) ** 2, axis=-1)
        return jnp.sum(errors * weights), jnp.sum(weights)

    def pictures(self, params: Params, frozen: Params, batch: Batch) -> dict[str, jax.Array]:
        """See `Task.pictures`; contrast is stretched, since normalisation cannot be undone here."""
        images, mask = batch["image"], batch["mask"]
        predicted = to_images(self.model.apply({"params": params}, images, mask, None), self.grid, images.shape[-1])
        side = images.shape[1] // self.grid[0]
        hidden = repeat(mask, "b h w -> b (h i) (w j) 1", i=side, j=side)
        lowest = jnp.min(images, axis=(1, 2, 3), keepdims=True)
        highest = jnp.max(images, axis=(1, 2, 3), keepdims=True)

        def stretched(values: jax.Array) -> jax.Array:
            return jnp.clip((values - lowest) / jnp.maximum(highest - lowest, 1e-6), 0.0, 1.0)

        original = stretched(images)
        filled = predicted if self.on_all else jnp.where(hidden, predicted, images)
        return {
            "original": original,
            "masked": hide_patches(original, mask),
            "recovered" if self.on_all else "filled": stretched(filled),
        }

    @property
    def report(self) -> Report:
        """See `Task.report`."""
        patches = "normalised pixels" if self.on_all else "masked, normalised pixels"
        return Report(
            f"pretrain, {'all ' if self.on_all else ''}pixels",
            curves=(Curve("loss", "eval/loss", f"squared error of {patches}"),),
            headlines=(Headline("loss", f"squared error of {patches}", form="{:.3f}"),),
            metrics={
                "loss": "squared error on the evaluation set",
                "overflow": "masked patches that the head left out; 0 is right",
            },
            captions={
                "original": "held-out images",
                "masked": "what BEiT sees",
                "filled": "the pixels that BEiT predicts for the masked patches",
                "recovered": "the pixels that BEiT predicts for all patches",
            },
        )
