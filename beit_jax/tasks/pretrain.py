"""Masked image modelling on visual tokens (BEiT paper, section 2.3; official `engine_for_pretraining.py`).

Each image is cropped, and the crop is resized twice: to the view of the encoder and to the view of the tokenizer. The
tokenizer makes one token for each patch. The model predicts the tokens of the masked patches from the visible patches.

This is the second of BEiT's two stages (section 2.4). The tokenizer is frozen. The transformer learns p(z | corrupted
image), the prior of the tokens z; the loss is the negative log likelihood of the true tokens. `tasks/elbo.py` computes
the evidence lower bound, of which this loss is one term.

With `loss_on="all"` the loss counts every patch, masked or not: an ablation of the paper (section 3.3, table 4).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from beit_jax.config import tokenizer_image_size
from beit_jax.models import heads
from beit_jax.models.image_size import sides
from beit_jax.models.tokenizer import Tokenizer
from beit_jax.models.xla_workarounds import value_at
from beit_jax.tasks import device_augment, patch_aggregation
from beit_jax.tasks.accuracy import is_most_likely
from beit_jax.tasks.device_choices import compute_dtype
from beit_jax.tasks.masked_modelling import MaskedModelling
from beit_jax.tasks.pretrain_report import hide_patches, pretrain_report
from beit_jax.tasks.report import Report
from beit_jax.tasks.task import FrozenPart, means, spec
from beit_jax.tasks.tokenizer_kinds import create_tokenizer
from beit_jax.typing import Batch, Metrics, Params, Spec


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrain(MaskedModelling):
    """See `MaskedModelling`; batches also hold `tokenizer_image` `[b, h', w', c]` in the tokenizer's range.

    With `config.tokens`, training batches hold `tokens` int32 `[b, gh, gw]` in its place. With `config.device_augment`,
    they hold uint8 images, from which the step makes `image` and `tokenizer_image`.
    """

    @functools.cached_property
    def model(self) -> heads.MaskedImageModel:
        """See `Task.model`; with `model.early_layer` that of BEiT v2, which predicts twice (`patch_aggregation`)."""
        return patch_aggregation.extended(super().model, self.config.model)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The frozen tokenizer, which makes the true tokens."""
        section, dtype = self.config.tokenizer, compute_dtype(self.config.model.dtype)
        return create_tokenizer(section, tokenizer_image_size(self.config), dtype, channels=self.config.data.channels)

    @property
    def frozen_parts(self) -> Mapping[str, FrozenPart]:
        """See `Task.frozen_parts`."""
        return {"tokenizer": FrozenPart(self.tokenizer.init, self.config.tokenizer.init_from, grid=self.tokenizer.grid)}

    @property
    def outputs(self) -> int:
        """See `MaskedModelling.outputs`."""
        return self.tokenizer.vocab

    @property
    def stored_tokens(self) -> str:
        """See `Task.stored_tokens`."""
        return self.config.tokens

    def eval_spec(self, b: int) -> Spec:
        """See `Task.eval_spec`; the tokens of evaluation images are never stored."""
        image = spec("float32", b, *sides(self.tokenizer.image_size), self.config.data.channels)
        return super().train_spec(b) | {"tokenizer_image": image}

    def ops_spec(self, b: int) -> Spec:
        """See `Task.ops_spec`: both views and the mask; with `device_augment` one uint8 image and the mask."""
        specs = self.eval_spec(b)
        if not self.config.device_augment:
            return specs
        return {"image": spec("uint8", *specs["image"].shape), "mask": specs["mask"]}

    def train_spec(self, b: int) -> Spec:
        """See `Task.train_spec`: what the ops make, or stored tokens in place of the tokenizer's view."""
        if not self.config.tokens:
            return self.ops_spec(b)
        return super().train_spec(b) | {"tokens": spec("int32", b, *self.grid)}

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Metrics, Params]:
        """See `Task.loss`."""
        if self.config.device_augment:
            batch = device_augment.make_views(batch, key, self.config, self.tokenizer)
        logits, positions, masked = self.predict(params, batch, key)
        tokens = self.tokens_at(frozen, batch, positions)
        return self._scores(logits, tokens, self.loss_weights(masked)) | self.mask_metrics(masked), {}

    def measure(self, params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        """See `Task.measure`."""
        logits, positions, masked = self.predict(params, batch)
        tokens, valid = self.tokens_at(frozen, batch, positions), batch["valid"].astype(jnp.float32)[:, None]
        weights = self.loss_weights(masked) * valid
        frequencies = jnp.einsum("bk,bkv->v", weights, jax.nn.one_hot(tokens, self.outputs))
        # `mlm_acc` counts the masked patches only, also where the loss counts all, and the first of two predictions.
        sums = token_metrics(jax.tree.leaves(logits)[0], tokens, masked * valid) | self._scores(logits, tokens, weights)
        return sums | {"tokens": frequencies, "overflow": self.overflow(batch)}

    def summarize(self, sums: dict[str, Any]) -> dict[str, float]:
        """Means over patches; `mlm_acc_majority` is the accuracy of always predicting the most frequent token."""
        overflow, frequencies = float(sums.pop("overflow")), np.asarray(sums.pop("tokens"), np.float64)
        if self.on_all and not sums["mlm_acc"][1]:
            del sums["mlm_acc"]  # no patch is masked
        majority = float(frequencies.max() / frequencies.sum())
        return means(sums) | {"mlm_acc_majority": majority, "overflow": overflow}

    def tokens_at(self, frozen: Params, batch: Batch, positions: jax.Array) -> jax.Array:
        """The true tokens at row-major `positions` `[b, k]`: int32 `[b, k]`."""
        if "tokens" in batch:
            return jnp.take_along_axis(rearrange(batch["tokens"], "b h w -> b (h w)"), positions, axis=1)
        return self.tokenizer.targets(frozen["tokenizer"], batch["tokenizer_image"], positions)

    def _scores(self, logits: Any, tokens: jax.Array, weights: jax.Array) -> Metrics:
        """The loss and the accuracy over the patches that the loss counts; with `on_all` it is called `all_acc`."""
        if isinstance(logits, tuple):
            return patch_aggregation.joined(*(self._scores(each, tokens, weights) for each in logits))
        metrics = token_metrics(logits, tokens, weights)
        return {"loss": metrics["loss"], "all_acc": metrics["mlm_acc"]} if self.on_all else metrics

    def pictures(self, params: Params, frozen: Params, batch: Batch) -> dict[str, jax.Array]:
        """See `Task.pictures`."""
        images, mask = batch["tokenizer_image"], batch["mask"]
        original = self.tokenizer.to_pixels(images)
        pictures = {"original": original, "masked": hide_patches(original, mask)}
        if not self.tokenizer.can_decode:
            return pictures
        tokens = self.tokenizer.targets(frozen["tokenizer"], images)
        logits = self.model.apply({"params": params}, batch["image"], mask, None)
        predicted = jnp.argmax(logits, axis=-1).reshape(mask.shape).astype(tokens.dtype)
        shown = predicted if self.on_all else jnp.where(mask, predicted, tokens)
        decoded = [self.tokenizer.decode(frozen["tokenizer"], grid) for grid in (tokens, shown)]
        return pictures | {"tokenizer": decoded[0], "recovered" if self.on_all else "prediction": decoded[1]}

    def training_flops(self) -> int:
        """See `Task.training_flops`."""
        tokens = 0 if self.config.tokens else self.tokenizer.target_flops() or 0
        return super().training_flops() + tokens + patch_aggregation.training_flops(self.config, self.outputs)

    @property
    def report(self) -> Report:
        """See `Task.report`."""
        return pretrain_report(self.on_all, self.config.model.early_layer > 0)


def token_metrics(logits: jax.Array, tokens: jax.Array, weights: jax.Array) -> Metrics:
    """Cross-entropy and accuracy over the positions that have weight.

    Args:
      logits: `[b, k, v]`.
      tokens: the true ones, int `[b, k]`.
      weights: `[b, k]` of 0 and 1.
    """
    true = value_at(logits, tokens)
    nll = jax.nn.logsumexp(logits, axis=-1) - true
    right = is_most_likely(logits, true).astype(jnp.float32)
    count = jnp.sum(weights)
    return {"loss": (jnp.sum(nll * weights), count), "mlm_acc": (jnp.sum(right * weights), count)}
